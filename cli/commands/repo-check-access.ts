import type { Command } from 'commander';
import { requireAccess } from '../../repository/check-access.ts';
import { openRepository } from '../../repository/identity.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { placeText } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action } from '../context.ts';
import { table } from '../output.ts';
import { parseName } from './dev.ts';

export function addRepoCheckAccessCommand(repo: Command): void {
  repo
    .command('check-access')
    .description('try from this machine all that backups need of a repository: read, write, upload, list, delete')
    .argument('<name>', "the repository's name", parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast repo check-access main')
    .action(
      action(async (context, name: string) => {
        const record = await (await context.catalog()).repositories.find(name);
        if (record === undefined) throw new HoldfastError('RepositoryNotFound', `no repository ${name} is known`);
        const store = openBlobStore(record.location);
        await openRepository(store, record);
        const acts = await requireAccess(store);
        context.output.result({ repository: name, place: placeText(record.location), acts }, () =>
          table(
            ['ACT', 'RESULT'],
            acts.map((act) => [act, 'works']),
            '',
          ),
        );
      }),
    );
}
