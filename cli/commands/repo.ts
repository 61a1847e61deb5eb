import type { Command } from 'commander';
import { basename, resolve } from 'node:path';
import { openBlobStore } from '../../repository/open-repository.ts';
import { placeText, type RepositoryRecord } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { plainName } from '../../schemas/names.ts';
import { addRepository } from '../../workers/add-repository.ts';
import { action } from '../context.ts';
import { sizeText, table } from '../output.ts';
import { parseCount, parseName } from './dev.ts';
import { addRepoLimitCommand } from './repo-limit.ts';
import { addRescanCommand } from './rescan.ts';

export function addRepoCommands(program: Command): void {
  const repo = program.command('repo').description('repositories, where backups are kept');
  repo
    .command('add')
    .description('make a directory a repository, or take one that is there already')
    .argument('<directory>', 'local or mounted folder, the same path on every host that uses it')
    .option('--name <name>', "the repository's name (default: the folder's)", parseName)
    .option('--slots <n>', 'operations that may use it at once', parseCount)
    .addHelpText('after', '\nExample:\n  $ holdfast repo add /mnt/backups --name main')
    .action(
      action(async (context, directory: string, options: { name?: string; slots?: number }) => {
        if (/^[a-z0-9]+:\/\//.test(directory)) {
          throw new HoldfastError(
            'InvalidRequest',
            `location: ${directory} is no directory; this version keeps backups in directories`,
          );
        }
        const path = resolve(directory);
        const name = options.name ?? nameFor(path);
        const { slots } = options;
        const added = await addRepository(await context.catalog(), {
          name,
          location: { kind: 'directory', path },
          ...(slots === undefined ? {} : { slots }),
        });
        context.output.result(added, () => `repository ${name} at ${path}`);
      }),
    );
  addRepoLimitCommand(repo);
  repo
    .command('ls')
    .description('list the repositories')
    .action(
      action(async (context) => {
        const catalog = await context.catalog();
        const repositories = await Promise.all(
          (await catalog.repositories.list()).map(async (record) => {
            const backups = await catalog.backups.list({ repository: record.name, states: ['BackedUp'] });
            const storedBytes = backups.reduce((sum, backup) => sum + backup.storedBytes, 0);
            return { ...record, backups: backups.length, storedBytes, freeBytes: await freeBytes(record) };
          }),
        );
        context.output.result(repositories, () =>
          table(
            ['REPOSITORY', 'PLACE', 'BACKUPS', 'STORED', 'FREE'],
            repositories.map((row) => [
              row.name,
              placeText(row.location),
              row.backups,
              sizeText(row.storedBytes),
              row.freeBytes === null ? 'not seen from here' : sizeText(row.freeBytes),
            ]),
            'no repository yet; add one: holdfast repo add DIRECTORY',
          ),
        );
      }),
    );
  addRescanCommand(repo);
}

/** null when the place cannot be seen from this machine. */
async function freeBytes({ location }: RepositoryRecord): Promise<number | null> {
  return await openBlobStore(location)
    .freeSpaceBytes()
    .then(
      (bytes) => bytes ?? null,
      () => null,
    );
}

function nameFor(path: string): string {
  const name = basename(path);
  if (plainName.safeParse(name).success) return name;
  throw new HoldfastError('InvalidRequest', `name: "${name}" makes no name; give one with --name`);
}
