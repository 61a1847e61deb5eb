import type { Command } from 'commander';
import { openBlobStore } from '../../repository/open-repository.ts';
import { placeText, settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import { addRepository } from '../../workers/add-repository.ts';
import { action } from '../context.ts';
import { encryptionOf, identityOf, withEncryptionOptions, type EncryptionOptions } from '../encryption-options.ts';
import { sizeText, table } from '../output.ts';
import { nameForPlace, PLACE_HELP, repositoryPlace, withPlaceOptions, type PlaceOptions } from '../repository-place.ts';
import { addCopyCommand } from './copy.ts';
import { parseCount, parseName } from './dev.ts';
import { addRepoCheckAccessCommand } from './repo-check-access.ts';
import { addRepoKeyCommands } from './repo-key.ts';
import { addRepoSetCommand } from './repo-set.ts';
import { addRepoLimitCommand } from './repo-limit.ts';
import { addRepoLockCommand } from './repo-lock.ts';
import { addCheckCommand } from './check.ts';
import { addRescanCommand } from './rescan.ts';

type AddOptions = PlaceOptions & EncryptionOptions & { name?: string; slots?: number; takeOver?: boolean };

export function addRepoCommands(program: Command): void {
  const repo = program.command('repo').description('repositories, where backups are kept');
  withEncryptionOptions(
    withPlaceOptions(
      repo
        .command('add')
        .description('make a place a repository, or take one that is there already')
        .argument('<place>', PLACE_HELP)
        .option('--name <name>', "the repository's name (default: the last part of its place)", parseName)
        .option('--slots <n>', 'operations that may use it at once', parseCount),
    ),
  )
    .option('--take-over', 'also when another installation owns it, which is refused from then on')
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast repo add /mnt/backups --name main' +
        '\n  $ holdfast repo add s3://backups/kvm --endpoint https://s3.example.org --path-style' +
        ' --credentials-file /etc/holdfast/s3' +
        '\n  $ holdfast repo add /mnt/backups --encrypt --recipient age1… --identity-file /etc/holdfast/main.key',
    )
    .action(
      action(async (context, place: string, options: AddOptions) => {
        const location = repositoryPlace(place, options);
        const name = options.name ?? nameForPlace(location);
        const { slots, takeOver = false } = options;
        const encrypt = encryptionOf(options);
        const identity = identityOf(options);
        const added = await addRepository(await context.catalog(), {
          name,
          location,
          takeOver,
          ...(encrypt === undefined ? {} : { encrypt }),
          ...(identity === undefined ? {} : { settings: { identity } }),
          ...(slots === undefined ? {} : { slots }),
        });
        const isEncrypted = settingsOf(added).encryption !== null;
        context.output.result(
          added,
          () => `repository ${name} at ${placeText(location)}${isEncrypted ? ', encrypted' : ''}`,
        );
      }),
    );
  addRepoCheckAccessCommand(repo);
  addRepoLimitCommand(repo);
  addRepoLockCommand(repo);
  addCopyCommand(repo);
  addRepoSetCommand(repo);
  addRepoKeyCommands(repo);
  repo
    .command('ls')
    .description('list the repositories')
    .addHelpText('after', '\nExamples:\n  $ holdfast repo ls\n  $ holdfast repo ls --json')
    .action(
      action(async (context) => {
        const catalog = await context.catalog();
        const repositories = await Promise.all(
          (await catalog.repositories.list()).map(async (record) => {
            const backups = await catalog.backups.list({ repository: record.name, states: ['BackedUp'] });
            const storedBytes = backups.reduce((sum, backup) => sum + backup.storedBytes, 0);
            const { length: copies } = await catalog.copies.list({ repository: record.name, states: ['Copied'] });
            return { ...record, backups: backups.length, copies, storedBytes, freeBytes: await freeBytes(record) };
          }),
        );
        context.output.result(repositories, () =>
          table(
            ['REPOSITORY', 'PLACE', 'BACKUPS', 'COPIES', 'STORED', 'FREE'],
            repositories.map((row) => [
              row.name,
              placeText(row.location),
              row.backups,
              row.copies,
              sizeText(row.storedBytes),
              row.freeBytes === null ? unknownSpace(row) : sizeText(row.freeBytes),
            ]),
            'no repository yet; add one: holdfast repo add PLACE',
          ),
        );
      }),
    );
  addRescanCommand(repo);
  addCheckCommand(repo);
}

const unknownSpace = ({ location }: RepositoryRecord): string =>
  location.kind === 's3' ? 'not told by S3' : 'not seen from here';

/** null when the place cannot be seen from this machine. */
async function freeBytes({ location }: RepositoryRecord): Promise<number | null> {
  return await openBlobStore(location)
    .freeSpaceBytes()
    .then(
      (bytes) => bytes ?? null,
      () => null,
    );
}
