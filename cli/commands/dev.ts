import { InvalidArgumentError, type Command } from 'commander';
import { hostname } from 'node:os';
import { defaultSocketPath } from '../../libvirt/address.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { plainName, vmName } from '../../schemas/names.ts';
import { action } from '../context.ts';
import { PLACE_HELP, repositoryPlace, withPlaceOptions, type PlaceOptions } from '../repository-place.ts';
import { stopSignal } from '../stop-signal.ts';

/** This machine's name as a host name of ours. */
export const defaultHost = (): string =>
  hostname()
    .split('.')[0]
    ?.replaceAll(/[^A-Za-z0-9._-]/g, '-')
    .replace(/^[.-]+/, '') || 'host';

export const parseName = (value: string): string => checked(plainName, value);

/** A VM's name or UUID. */
export const parseVm = (value: string): string => checked(vmName, value);

function checked(schema: typeof plainName, value: string): string {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues.map(({ message }) => message).join('; '));
  return parsed.data;
}

export function parseCount(value: string): number {
  const count = Number(value);
  if (!Number.isInteger(count) || count < 1) throw new InvalidArgumentError('give a whole number from 1 on');
  return count;
}

interface DevFlags extends PlaceOptions {
  libvirt: string;
  host: string;
  repo?: string;
  slots: number;
}

export function addDevCommand(program: Command): void {
  const dev = program
    .command('dev')
    .description('run everything on this machine: Temporal, control worker, one host worker')
    .option('--libvirt <socket>', "libvirt's socket", defaultSocketPath())
    .option('--host <name>', 'name of this KVM host', parseName, defaultHost())
    .option('--repo <place>', `repository: ${PLACE_HELP} (default: a folder in that of the installation)`)
    .option('--slots <n>', 'disks copied at once', parseCount, 4);
  withPlaceOptions(dev)
    .addHelpText(
      'after',
      '\nPrints `ready` when it is. Ends with Ctrl-C; what was running goes on at the next start.\n\n' +
        'Examples:\n  $ holdfast dev --repo /srv/backups\n' +
        '  $ holdfast dev --repo s3://backups/kvm-1 --endpoint https://s3.example.org --credentials-file /etc/holdfast/s3',
    )
    .action(
      action(async ({ installation, output }, flags: DevFlags) => {
        const { libvirt, host, repo, slots, ...place } = flags;
        if (repo === undefined && Object.keys(place).length > 0) {
          throw new HoldfastError(
            'InvalidRequest',
            'repo: options of a place are given, and no --repo s3://BUCKET/PREFIX',
          );
        }
        const { runDev } = await import('../../workers/dev.ts');
        await runDev(installation, {
          ...{ libvirt, host, slots },
          repository: repo === undefined ? undefined : repositoryPlace(repo, place),
          signal: stopSignal(),
          log: (line) => process.stdout.write(output.isJson ? `${JSON.stringify({ message: line })}\n` : `${line}\n`),
        });
      }),
    );
}
