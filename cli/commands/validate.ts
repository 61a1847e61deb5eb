import { InvalidArgumentError, type Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startValidateBackup } from '../../operations/start.ts';
import type { Backup } from '../../schemas/backup.ts';
import { validateBackupRequest } from '../../schemas/requests.ts';
import { validationStep, type ValidationStep, type ValidationState } from '../../schemas/states.ts';
import { reasonOf, type ValidationResult } from '../../schemas/validation.ts';
import type { ValidatedBackup } from '../../workflows/validate-backup.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { durationText, shortId, table } from '../output.ts';
import { requestedBy } from '../requested-by.ts';
import { parseIdPrefix } from '../backup-id.ts';
import { parseCount, parseName } from './dev.ts';
import { parseWhole } from './offering.ts';

interface ValidateFlags {
  steps?: ValidationStep[];
  command?: string[];
  exitCode?: number;
  output?: string;
  commandTimeout?: number;
  host?: string;
  wait: boolean;
}

/** @param backup the command `holdfast backup` */
export function addValidateCommand(backup: Command): void {
  backup
    .command('validate')
    .description('prove a backup: hash its whole chain, boot it as a throw-away VM, run a command in it')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .argument('[argv...]', 'after --: the command, or more arguments of --command, those that begin with a dash')
    .option(
      '--steps <steps>',
      'hash, boot, screenshot, command, joined by commas (default: as its offering says)',
      parseSteps,
    )
    .option('--command <argv...>', 'program and arguments to run in the guest through its agent; no shell')
    .option('--exit-code <n>', 'how the command must end (default: 0)', parseWhole)
    .option('--output <text>', 'what the command must print, white space at both ends aside')
    .option('--command-timeout <seconds>', 'how long the command may take (default: 60)', parseCount)
    .option(
      '--host <name>',
      'where to boot it (default: where it was taken, else any host with the repository)',
      parseName,
    )
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
Examples:
  $ holdfast backup validate 3f2c9a41
  $ holdfast backup validate 3f2c9a41 --steps hash
  $ holdfast backup validate 3f2c9a41 --output ok -- /bin/sh -c 'test -e /srv/db && echo ok'

Exit code 0 only if the backup is Valid.`,
    )
    .action(
      action(async (context, id: string, more: string[], flags: ValidateFlags) => {
        const argv = [...(flags.command ?? []), ...more];
        const { backup: found } = await findBackup(await context.catalog(), id);
        const request = validateBackupRequest.parse({
          backupId: found.id,
          steps: flags.steps,
          host: flags.host,
          requestedBy: requestedBy(),
          ...(argv.length === 0
            ? {}
            : {
                command: {
                  argv,
                  exitCode: flags.exitCode,
                  output: flags.output,
                  timeoutSeconds: flags.commandTimeout,
                },
              }),
        });
        const run = await startValidateBackup(await context.client(), request, found.vm.name);
        const validated = await followOrLeave<ValidatedBackup>(run, flags, context.output);
        if (validated === undefined) return;
        context.output.result(validated, () => textOf(validated));
        if (validated.validationResult.state !== 'Valid') process.exitCode = 1;
      }),
    );
}

function parseSteps(value: string): ValidationStep[] {
  const steps = value.split(',').map((step) => validationStep.safeParse(step.trim()));
  if (steps.every(({ success }) => success)) return steps.flatMap(({ data }) => data ?? []);
  throw new InvalidArgumentError(`give some of ${validationStep.options.join(', ')}, joined by commas`);
}

const textOf = ({ validationResult, ...backup }: ValidatedBackup & Backup): string =>
  [
    `backup ${shortId(backup.id)} of VM ${backup.vm.name}: ${validationResult.state}`,
    validationText(validationResult.state, validationResult),
  ].join('\n');

/** What is known of a backup's validation, for people. */
export function validationText(state: ValidationState, result: ValidationResult | null): string {
  if (result === null) return `validation: ${state}`;
  const booted = result.bootMs === null ? '' : `; booted in ${durationText(result.bootMs)}`;
  return [
    `validation: ${state}, ${result.validatedAt}${result.host === null ? '' : ` on ${result.host}`}${booted}`,
    table(
      ['STEP', 'RESULT', 'TOOK', 'WHAT WAS FOUND'],
      result.steps.map(({ step, result: outcome, durationMs, detail }) => [
        step,
        outcome,
        durationText(durationMs),
        detail,
      ]),
      'no steps',
    ),
    ...(result.screenshot === null ? [] : [`screenshot ${result.screenshot}`]),
    ...(result.state === 'Valid' ? [] : [`${result.state}: ${reasonOf(result)}`]),
  ].join('\n');
}
