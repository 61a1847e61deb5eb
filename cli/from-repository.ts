import { Option, type Command } from 'commander';
import { resolve } from 'node:path';
import type { OpenPlace } from '../standalone/open-place.ts';
import { secretReference, type SecretReference } from '../schemas/repository.ts';
import { LATEST } from './backup-id.ts';
import { parseVm } from './commands/dev.ts';
import { action, type CommandContext } from './context.ts';
import { Output } from './output.ts';
import { repositoryPlace, withPlaceOptions, type PlaceOptions } from './repository-place.ts';
import { WrongUsage } from './wrong-usage.ts';

export interface FromFlags extends PlaceOptions {
  from?: string;
  identityFile?: string;
  identityEnv?: string;
}

/** What a command works with that reads a repository by itself. */
export interface Alone {
  output: Output;
  place: OpenPlace;
}

/**
 * Adds `--from` with what belongs to it: the command then needs neither catalog nor Temporal nor an installation's folder.
 * @param conflicts options, as commander names their values, that need an installation
 */
export const withFromOptions = (command: Command, conflicts: readonly string[] = []): Command =>
  withPlaceOptions(
    command.addOption(
      new Option(
        '--from <repository>',
        'read this repository, a folder or s3://BUCKET/PREFIX: needs no installation, and only reads there',
      ).conflicts([...conflicts]),
    ),
  )
    .addOption(
      new Option(
        '--identity-file <path>',
        'with --from, of an encrypted repository: file with an age identity',
      ).conflicts('identityEnv'),
    )
    .option('--identity-env <name>', 'the same from an environment variable of that name');

/** With `latest` and `--from`. */
export const latestOfOption = (): Option =>
  new Option('--vm <vm>', 'with --from and `latest`: of this VM, by name or UUID').argParser(parseVm);

type FlagsAlone = FromFlags & { vm?: string };

/** Runs `alone` where `--from` names a repository; else `installed`, as any other command. */
export const actionOrFrom =
  <Parameters extends [...(string | undefined)[], FlagsAlone]>(
    installed: (context: CommandContext, ...parameters: Parameters) => Promise<void>,
    alone: (from: Alone, ...parameters: Parameters) => Promise<void>,
  ) =>
  async (...all: [...Parameters, Command]): Promise<void> => {
    const parameters = all.slice(0, -1) as unknown as Parameters;
    const command = all.at(-1) as Command;
    const flags = parameters.at(-1) as FlagsAlone;
    if (flags.from === undefined) {
      requireNone(parameters[0] as string | undefined, flags);
      await action(installed)(...parameters, command);
      return;
    }
    const { json = false } = command.optsWithGlobals<{ json?: boolean }>();
    const { openPlace } = await import('../standalone/open-place.ts');
    const place = await openPlace(repositoryPlace(flags.from, flags), identityOf(flags));
    await alone({ output: new Output({ json }), place }, ...parameters);
  };

/** What only says more of `--from`. */
function requireNone(subject: string | undefined, flags: FlagsAlone): void {
  const { vm, identityFile, identityEnv, endpoint, region, pathStyle, caFile, credentialsFile, profile } = flags;
  const of = { vm, identityFile, identityEnv, endpoint, region, pathStyle, caFile, credentialsFile, profile };
  const given = Object.entries(of).find(([, value]) => value !== undefined)?.[0];
  if (given === undefined && subject !== LATEST) return;
  const flag = given?.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new WrongUsage(`${flag === undefined ? LATEST : `--${flag}`} goes with --from`);
}

function identityOf({ identityFile, identityEnv }: FromFlags): SecretReference | undefined {
  if (identityFile !== undefined) return { kind: 'file', path: resolve(identityFile) };
  return identityEnv === undefined ? undefined : secretReference.parse({ kind: 'env', name: identityEnv });
}
