import type { Command } from 'commander';
import { HoldfastError } from '../../schemas/failures.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { action } from '../context.ts';
import { identityOf, withIdentityOptions, type IdentityOptions } from '../encryption-options.ts';
import { parseName } from './dev.ts';
import { WrongUsage } from '../wrong-usage.ts';

/** @param repo the command `holdfast repo` */
export function addRepoSetCommand(repo: Command): void {
  withIdentityOptions(
    repo
      .command('set')
      .description('change where hosts find the identity that opens an encrypted repository')
      .argument('<name>', 'name of the repository', parseName),
    'where hosts that restore or validate find an age identity',
  )
    .option('--no-identity', 'no host can restore or validate from it')
    .addHelpText(
      'after',
      '\nOnly the place is kept, never the identity. Runs that were begun keep the former place.\n\nExample:\n' +
        '  $ holdfast repo set main --identity-file /etc/holdfast/main.key',
    )
    .action(
      action(async (context, name: string, options: IdentityOptions & { identity: boolean }) => {
        const reference = identityOf(options);
        if ((reference === undefined) === options.identity) {
          throw new WrongUsage('identity: give one of --identity-file, --identity-env, --no-identity');
        }
        const { repositories } = await context.catalog();
        const changed = await repositories.alone(async () => {
          const record = await repositories.find(name);
          if (record === undefined) throw new HoldfastError('RepositoryNotFound', `no repository ${name}`);
          const settings = { ...settingsOf(record), identity: reference ?? null };
          await repositories.changeSettings(name, settings);
          return { ...record, settings };
        });
        context.output.result(changed, () => `repository ${name} changed`);
      }),
    );
}
