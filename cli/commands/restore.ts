import type { Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startRestoreVm } from '../../operations/start.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { restoreVmRequest } from '../../schemas/requests.ts';
import { action } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { table } from '../output.ts';
import { parseIdPrefix } from './backup.ts';
import { parseCount, parseName, parseVm } from './dev.ts';

interface RestoreFlags {
  as?: string;
  host?: string;
  start?: boolean;
  timeLimit?: number;
  wait: boolean;
}

export function addRestoreCommand(program: Command): void {
  program
    .command('restore')
    .description('bring a VM back from a backup: written beside, every byte checked, then swapped in')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .option('--as <name>', 'restore as a new VM: new UUID, new MACs, disks beside those of the original', parseVm)
    .option('--host <name>', 'restore to this host', parseName)
    .option('--start', 'start the VM when it is restored')
    .option('--time-limit <seconds>', 'for all disks together', parseCount)
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      '\nWithout --as the VM itself is restored; it must be stopped, or gone.\n\nExamples:\n  $ holdfast restore 3f2c9a41\n  $ holdfast restore 3f2c9a41 --as web-1-test --start',
    )
    .action(
      action(async (context, id: string, flags: RestoreFlags) => {
        const { backup } = await findBackup(await context.catalog(), id);
        const request = restoreVmRequest.parse({
          backupId: backup.id,
          as: flags.as,
          host: flags.host,
          start: flags.start,
          timeLimitSeconds: flags.timeLimit,
        });
        const run = await startRestoreVm(await context.client(), request, backup.vm.name);
        const { workflowId } = run;
        if (!flags.wait) {
          context.output.result(
            { jobId: workflowId },
            () => `${workflowId}\nfollow it: holdfast job show ${workflowId}`,
          );
          return;
        }
        context.output.note(`job ${workflowId}`);
        const restored = await followRun<RestoredVm>(run, context.output);
        context.output.result(restored, () =>
          [
            `VM ${restored.vm.name} (${restored.vm.uuid}) is restored`,
            table(
              ['DISK', 'PATH', 'VERIFIED'],
              restored.disks.map(({ target, path, verified }) => [target, path, verified ? 'yes' : 'no']),
              'no disks',
            ),
          ].join('\n'),
        );
      }),
    );
}
