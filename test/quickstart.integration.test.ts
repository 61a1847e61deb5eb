import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { isRunning, signalProcess, until } from './support/processes.ts';

const SCRIPT = join(import.meta.dirname, '..', 'scripts', 'quickstart');
const isRoot = process.getuid?.() === 0;

describe.skipIf(!isRoot)('the quickstart (needs root)', () => {
  it('proves that a VM comes back byte for byte, and leaves nothing behind', async () => {
    const run = startQuickstart();
    expect(await run.exitCode(), run.output()).toBe(0);
    const output = run.output();
    expect(output).toMatch(/^BACKUP\s+TYPE\s+CHANGED\s+STORED\s+SECONDS\s+VERIFIED$/m);
    expect(output).toMatch(/^[0-9a-f]{8}\s+full\s+.*yes: 5 SHA-256 sums are equal$/m);
    expect(output).toMatch(/^[0-9a-f]{8}\s+incremental\s+.*yes: 6 SHA-256 sums are equal$/m);
    expect(output).toMatch(/Temporal UI: http:\/\/127\.0\.0\.1:\d+$/m);
    expect(output).toContain('bin/holdfast backup take VM');
    expect(leftOf(run.folder())).toEqual({ folder: false, processes: [] });
  });

  it('leaves nothing behind when it is stopped in the middle', async () => {
    const run = startQuickstart();
    await until('the full backup has begun', () => run.output().includes('full backup') || !isRunning(run.pid), {
      timeoutMs: 120_000,
    });
    signalProcess(run.pid, 'SIGINT');
    expect(await run.exitCode(), run.output()).toBe(130);
    expect(run.output()).toContain('stopped by SIGINT');
    expect(leftOf(run.folder())).toEqual({ folder: false, processes: [] });
  });
});

it('refuses what it does not know, with its usage', async () => {
  const run = startQuickstart('--kep');
  expect(await run.exitCode()).toBe(2);
  expect(run.output()).toContain('usage: npm run quickstart');
});

function startQuickstart(...args: string[]) {
  const child = spawn('sh', [SCRIPT, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const ended = once(child, 'close');
  onTestFinished(async () => {
    child.kill('SIGTERM');
    await ended;
  });
  return {
    pid: child.pid!,
    output: () => text,
    folder: () => /working in (\/tmp\/hfq-\S+)/.exec(text)?.[1] ?? expect.unreachable('it names no folder'),
    exitCode: async (): Promise<unknown> => ((await ended) as unknown[])[0],
  };
}

/** The folder, and processes that name it or whose mounts lie in it. */
function leftOf(folder: string): { folder: boolean; processes: string[] } {
  const processes = readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && isRunning(Number(entry)))
    .filter((pid) =>
      ['cmdline', 'mountinfo'].some((file) => readIfThere(`/proc/${pid}/${file}`).includes(`${folder}/`)),
    )
    .map((pid) => `${pid}: ${readIfThere(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`);
  return { folder: existsSync(folder), processes };
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
