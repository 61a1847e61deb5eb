import type { Command } from 'commander';
import { addOperator, listOperators, removeOperator, rotateRepositoryKey } from '../../operations/repository-keys.ts';
import { action } from '../context.ts';
import { identityOf, parseRecipient, withIdentityOptions, type IdentityOptions } from '../encryption-options.ts';
import { parseName } from './dev.ts';

const OPENED_WITH = 'an identity that opens the repository (default: where its hosts find theirs)';

/** @param repo the command `holdfast repo` */
export function addRepoKeyCommands(repo: Command): void {
  const key = repo.command('key').description('who can open an encrypted repository');
  key
    .command('ls')
    .description('list the recipients that can open it')
    .argument('<repository>', 'name of the repository', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast repo key ls main')
    .action(
      action(async (context, repository: string) => {
        const listed = await listOperators(await context.catalog(), repository);
        context.output.result(listed, () => listed.operators.join('\n'));
      }),
    );
  withIdentityOptions(
    key
      .command('add')
      .description('let one more recipient open it; no backup is written anew')
      .argument('<repository>', 'name of the repository', parseName)
      .argument('<recipient>', 'age1…', parseRecipient),
    OPENED_WITH,
  )
    .addHelpText('after', '\nExample:\n  $ holdfast repo key add main age1… --identity-file ~/main.key')
    .action(
      action(async (context, name: string, operator: string, options: IdentityOptions) => {
        const operators = await addOperator(await context.catalog(), { name, operator, identity: identityOf(options) });
        context.output.result({ repository: name, operators }, () => `${operator} can open repository ${name}`);
      }),
    );
  withIdentityOptions(
    key
      .command('rm')
      .description('take a recipient away; who had its key can still open what was written until now')
      .argument('<repository>', 'name of the repository', parseName)
      .argument('<recipient>', 'age1…', parseRecipient)
      .option('--dry-run', 'only tell who would be left'),
    OPENED_WITH,
  )
    .addHelpText('after', '\nExample:\n  $ holdfast repo key rm main age1… && holdfast repo key rotate main')
    .action(
      action(async (context, name: string, operator: string, options: IdentityOptions & { dryRun?: boolean }) => {
        const { dryRun = false } = options;
        const identity = identityOf(options);
        const operators = await removeOperator(await context.catalog(), { name, operator, identity, dryRun });
        context.output.result({ repository: name, operators, dryRun }, () =>
          [
            dryRun ? `left would be: ${operators.join(', ')}` : `left: ${operators.join(', ')}`,
            'Whoever opened the repository before may have kept its key, which opens all that was written until now, and what',
            `is written later too, until it gets another: holdfast repo key rotate ${name}`,
          ].join('\n'),
        );
      }),
    );
  withIdentityOptions(
    key
      .command('rotate')
      .description('encrypt what is written from now on to a new key; what is there stays as it is')
      .argument('<repository>', 'name of the repository', parseName),
    OPENED_WITH,
  )
    .addHelpText(
      'after',
      '\nBackups that run meanwhile finish with the key they began with. Cut off, run it again.\n\nExample:\n  $ holdfast repo key rotate main',
    )
    .action(
      action(async (context, name: string, options: IdentityOptions) => {
        const rotated = await rotateRepositoryKey(await context.catalog(), { name, identity: identityOf(options) });
        context.output.result({ repository: name, ...rotated }, () => `new files are for ${rotated.recipient}`);
      }),
    );
}
