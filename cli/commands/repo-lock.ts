import { InvalidArgumentError, Option, type Command } from 'commander';
import { openRepository } from '../../repository/identity.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import {
  immutability as immutabilitySchema,
  settingsOf,
  type Immutability,
  type RepositoryRecord,
} from '../../schemas/repository.ts';
import { action } from '../context.ts';
import { parseCount, parseName } from './dev.ts';
import { WrongUsage } from '../wrong-usage.ts';

interface LockFlags {
  days?: number;
  mode: Immutability['mode'];
  off?: boolean;
}

/** @param repo the command `holdfast repo` */
export function addRepoLockCommand(repo: Command): void {
  repo
    .command('lock')
    .description('show or change for how long the bucket keeps each new backup, whoever wants to remove it')
    .argument('<name>', 'name of the repository', parseName)
    .option('--days <n>', 'lock each new backup, and what it is built on, for so many days', parseDays)
    .addOption(
      new Option('--mode <mode>', 'governance: those with a special right may lift a lock; compliance: nobody may')
        .choices(['governance', 'compliance'])
        .default('governance'),
    )
    .option('--off', 'lock no more backups; locks that are there stay until their time')
    .addHelpText(
      'after',
      '\nNeeds a bucket with object lock and versioning. Each new backup is locked, and what it is built on with it; those that are\n' +
        'there by the daily search for what nothing owns, or now by holdfast reclaim.\n\n' +
        'Example:\n  $ holdfast repo lock offsite --days 30',
    )
    .action(
      action(async (context, name: string, { days, mode, off = false }: LockFlags) => {
        if (off && days !== undefined) throw new WrongUsage('--days and --off: give one of them');
        const { repositories } = await context.catalog();
        const immutability = await repositories.alone(async () => {
          const record = await repositories.find(name);
          if (record === undefined) throw new HoldfastError('RepositoryNotFound', `no repository ${name}`);
          if (days === undefined && !off) return settingsOf(record).immutability;
          const wanted = days === undefined ? null : { mode, days };
          if (wanted !== null) await requireLocks(record);
          await repositories.changeSettings(name, { ...settingsOf(record), immutability: wanted });
          return wanted;
        });
        context.output.result({ repository: name, immutability }, () =>
          immutability === null
            ? `${name}: backups are not locked`
            : `${name}: each backup is locked for ${immutability.days} days (${immutability.mode})`,
        );
      }),
    );
}

/** @throws HoldfastError InvalidRequest */
async function requireLocks(record: RepositoryRecord): Promise<void> {
  const store = openBlobStore(record.location);
  await openRepository(store, record);
  const problem =
    store.locks === undefined
      ? 'a directory has no locks of its own; docs/operating.md, "Locked backups", says what can be had there'
      : await store.locks.problem();
  if (problem !== undefined) throw new HoldfastError('InvalidRequest', `repository ${record.name}: ${problem}`);
}

/** @throws InvalidArgumentError */
function parseDays(value: string): number {
  const days = parseCount(value);
  if (immutabilitySchema.shape.days.safeParse(days).success) return days;
  throw new InvalidArgumentError('give a number of days up to 36500, a hundred years');
}
