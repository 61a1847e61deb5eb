import type { Command } from 'commander';
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { createProgram } from '../../cli/program.ts';
import { tableRows } from './table-rows.ts';

/** Full names of the commands that do something: `holdfast backup take`. */
const namesOf = (command: Command, path: string): string[] => {
  const subcommands = command.commands.filter((sub) => !['help', 'complete'].includes(sub.name()));
  return subcommands.length === 0 ? [path] : subcommands.flatMap((sub) => namesOf(sub, `${path} ${sub.name()}`));
};

describe('README.md', () => {
  it('lists exactly the commands there are', async () => {
    const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
    const listed = tableRows(readme).map(([name = '']) => name.replaceAll('`', ''));
    expect(listed.toSorted()).toEqual(namesOf(createProgram(), 'holdfast').toSorted());
  });
});
