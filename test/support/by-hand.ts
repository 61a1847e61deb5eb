import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const PAGE = readFileSync(new URL('../../docs/restore-by-hand.md', import.meta.url), 'utf8');

/** A block that only says where things are: a test has them elsewhere. */
const isSettings = (block: string): boolean =>
  block
    .trimEnd()
    .split('\n')
    .every((line) => /^[a-z]+=/.test(line));

/**
 * The commands of docs/restore-by-hand.md as one script.
 * @param sections their numbers, in order
 * @param settings instead of what the page's first blocks of a section assign
 */
export function scriptOf(sections: readonly number[], settings: Record<string, string>): string {
  const assigned = Object.entries(settings).map(([name, value]) => `${name}='${value.replaceAll("'", `'\\''`)}'`);
  const blocks = sections.flatMap((number) => {
    const [, rest] = PAGE.split(`\n## ${number}. `);
    if (rest === undefined) throw new Error(`docs/restore-by-hand.md has no section ${number}`);
    const [section = ''] = rest.split('\n## ');
    return [...section.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block = '']) => block);
  });
  const missing = blocks
    .filter(isSettings)
    .flatMap((block) => [...block.matchAll(/^([a-z]+)=/gm)].map(([, name = '']) => name));
  for (const name of missing)
    if (settings[name] === undefined) throw new Error(`the page sets ${name}, the test does not`);
  return [...assigned, ...blocks.filter((block) => !isSettings(block))].join('\n');
}

export interface RunByHand {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Runs them as a person would, in a shell. */
export function runByHand(
  sections: readonly number[],
  settings: Record<string, string>,
  env: NodeJS.ProcessEnv = {},
): RunByHand {
  const { status, stdout, stderr } = spawnSync('sh', [], {
    input: scriptOf(sections, settings),
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  return { exitCode: status, stdout, stderr };
}
