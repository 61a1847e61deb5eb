import { symlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { createProgram } from '../../cli/program.ts';
import { tempDir } from '../support/temp.ts';
import { runCli } from './run-cli.ts';

const errorOf = (stderr: string): { type: string; message: string } =>
  (JSON.parse(stderr) as { error: { type: string; message: string } }).error;

describe.concurrent('wrong usage', () => {
  it.each([
    { what: 'an unknown command', args: ['bakcup'], type: 'UsageError', says: 'Did you mean backup?' },
    { what: 'an unknown subcommand', args: ['backup', 'tkae'], type: 'UsageError', says: 'Did you mean take?' },
    { what: 'a missing subcommand', args: ['vm'], type: 'UsageError', says: 'a command is missing' },
    { what: 'an unknown option', args: ['vm', 'ls', '--refersh'], type: 'UsageError', says: 'refersh' },
    { what: 'a missing argument', args: ['backup', 'take'], type: 'UsageError', says: "argument 'vm'" },
    {
      what: 'a value out of the choices',
      args: ['backup', 'take', 'x', '--quiesce', 'no'],
      type: 'InvalidRequest',
      says: 'prefer',
    },
    {
      what: 'a name that leaves its folder',
      args: ['backup', 'take', '../x'],
      type: 'InvalidRequest',
      says: 'without "/"',
    },
    { what: 'an empty name', args: ['vm', 'show', ''], type: 'InvalidRequest', says: "argument 'vm'" },
    { what: 'a control character', args: ['vm', 'show', 'a\u001b[2J'], type: 'InvalidRequest', says: 'control' },
    { what: 'a path for a host', args: ['host', 'add', '../x'], type: 'InvalidRequest', says: 'letters' },
    {
      what: 'a bucket that cannot be',
      args: ['repo', 'add', 's3://No_Bucket'],
      type: 'InvalidRequest',
      says: 'bucket of',
    },
    {
      what: 'recipients from a file that is not there',
      args: ['repo', 'add', '/nowhere', '--encrypt', '--recipients-file', '/nowhere/r'],
      type: 'InvalidRequest',
      says: '--recipients-file: /nowhere/r cannot be read',
    },
    { what: 'no identity to set', args: ['repo', 'set', 'main'], type: 'InvalidRequest', says: 'identity: give one' },
    {
      what: 'a limit that is given and taken away',
      args: ['repo', 'limit', 'main', '--off', '--rate', '5M'],
      type: 'InvalidRequest',
      says: '--off',
    },
    {
      what: 'a lock for longer than dates go',
      args: ['repo', 'lock', 'main', '--days', '99999999'],
      type: 'InvalidRequest',
      says: '36500',
    },
    { what: 'no backup to copy', args: ['repo', 'copy', '--to', 'x'], type: 'InvalidRequest', says: 'name a backup' },
    { what: 'a bad backup id', args: ['restore', '../../etc'], type: 'InvalidRequest', says: 'backup id' },
  ])('ends with 2 and tells why as JSON: $what', ({ args, type, says }) => {
    const { exitCode, stdout, stderr } = runCli([...args, '--json']);
    expect(exitCode).toBe(2);
    expect(stdout).toBe('');
    expect(errorOf(stderr)).toEqual({ type, message: expect.stringContaining(says) as string });
  });

  it('tells people in words, once', () => {
    const { exitCode, stdout, stderr } = runCli(['bakcup']);
    expect({ exitCode, stdout, stderr }).toEqual({
      exitCode: 2,
      stdout: '',
      stderr: "error: unknown command 'bakcup'\n(Did you mean backup?)\n",
    });
  });
});

describe('help', () => {
  it('ends with 0, and shows examples and exit codes', () => {
    const { exitCode, stdout, stderr } = runCli(['--help']);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toContain('$ holdfast backup take web-1');
    expect(stdout).toContain('0 done, 1 failed, 2 wrong usage');
  });

  it('describes every command, argument and option', () => {
    const undescribed: string[] = [];
    const walk = (command: Command, path: string): void => {
      if (command.description() === '') undescribed.push(path);
      for (const { flags, description } of command.options)
        if (description === '') undescribed.push(`${path} ${flags}`);
      for (const argument of command.registeredArguments) {
        if (argument.description === '') undescribed.push(`${path} <${argument.name()}>`);
      }
      for (const sub of command.commands) walk(sub, `${path} ${sub.name()}`);
    };
    walk(createProgram(), 'holdfast');
    expect(undescribed).toEqual([]);
  });

  it('gives an example of every command', () => {
    const without: string[] = [];
    const walk = (command: Command, path: string): void => {
      for (const sub of command.commands) walk(sub, `${path} ${sub.name()}`);
      if (command.commands.length > 0) return;
      let help = '';
      command.configureOutput({ writeOut: (text) => void (help += text) }).outputHelp();
      if (!help.includes(`$ ${path}`)) without.push(path);
    };
    walk(createProgram(), 'holdfast');
    expect(without).toEqual([]);
  });
});

it('runs through a symbolic link', async () => {
  await using dir = await tempDir();
  const link = join(dir.path, 'hf');
  await symlink(join(import.meta.dirname, '..', '..', 'bin', 'holdfast'), link);
  const { exitCode, stdout } = runCli(['--version'], { command: link, cwd: dir.path });
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});
