import { Option, type Command } from 'commander';
import { resolve } from 'node:path';
import type { OpenPlace } from '../standalone/open-place.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { RepositoryLocation } from '../schemas/repository.ts';
import { LATEST } from './backup-id.ts';
import { parseVm } from './commands/dev.ts';
import { action, type CommandContext } from './context.ts';
import { Output } from './output.ts';

export interface FromFlags {
  from?: string;
}

/** What a command works with that reads a repository by itself. */
export interface Alone {
  output: Output;
  place: OpenPlace;
}

/** `--from`: the command then needs neither catalog nor Temporal nor an installation's folder. */
export const fromOption = (): Option =>
  new Option('--from <repository>', 'read this directory, a repository: needs no installation, and only reads there');

/** With `latest` and `--from`. */
export const latestOfOption = (): Option =>
  new Option('--vm <vm>', 'with --from and `latest`: of this VM, by name or UUID').argParser(parseVm);

/** Runs `alone` where `--from` names a repository; else `installed`, as any other command. */
export const actionOrFrom =
  <Subject extends string | undefined, Flags extends FromFlags & { vm?: string }>(
    installed: (context: CommandContext, subject: Subject, flags: Flags) => Promise<void>,
    alone: (from: Alone, subject: Subject, flags: Flags) => Promise<void>,
  ) =>
  async (subject: Subject, flags: Flags, command: Command): Promise<void> => {
    if (flags.from === undefined) {
      if (subject === LATEST || flags.vm !== undefined) {
        throw new HoldfastError('InvalidRequest', '`latest` and --vm go with --from');
      }
      await action(installed)(subject, flags, command);
      return;
    }
    const { json = false } = command.optsWithGlobals<{ json?: boolean }>();
    const { openPlace } = await import('../standalone/open-place.ts');
    await alone({ output: new Output({ json }), place: await openPlace(locationOf(flags.from)) }, subject, flags);
  };

function locationOf(from: string): RepositoryLocation {
  if (/^[a-z0-9]+:\/\//.test(from)) {
    throw new HoldfastError('InvalidRequest', `--from: ${from} is no directory; this version reads directories`);
  }
  return { kind: 'directory', path: resolve(from) };
}
