import type { Command } from 'commander';
import { expect, it } from 'vitest';
import { ARGUMENTS } from '../../cli/completion.ts';
import { createProgram } from '../../cli/program.ts';

it('knows what each argument of each command means', () => {
  const counts: Record<string, number> = {};
  const walk = (command: Command, path: string): void => {
    if (command.registeredArguments.length > 0) counts[path] = command.registeredArguments.length;
    for (const sub of command.commands) walk(sub, `${path} ${sub.name()}`.trim());
  };
  walk(createProgram(), '');
  delete counts.complete; // the shell's own
  expect(Object.fromEntries(Object.entries(ARGUMENTS).map(([path, means]) => [path, means.length]))).toEqual(counts);
});
