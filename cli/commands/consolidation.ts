import { InvalidArgumentError, type Command } from 'commander';
import { startConsolidateDisks } from '../../operations/start.ts';
import {
  consolidationJob,
  showConsolidation as shown,
  type ConsolidatedVm,
  type Consolidation,
} from '../../schemas/consolidation.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { consolidateDisksRequest } from '../../schemas/requests.ts';
import { action, type CommandContext } from '../context.ts';
import { followOrLeave, followRun } from '../follow-run.ts';
import { shortId, table } from '../output.ts';
import { parseVm } from './dev.ts';

/** Megabytes (10^6 bytes) per second. */
export function parseRate(value: string): number {
  const rate = Number(value);
  if (!Number.isFinite(rate) || rate < 0)
    throw new InvalidArgumentError('give megabytes per second; 0 = as fast as it goes');
  return rate;
}

export function addConsolidationCommands(program: Command): void {
  const consolidation = program
    .command('consolidation')
    .description('VMs whose disks still depend on a backup after a quick restore');
  consolidation
    .command('ls')
    .description('list them, with the job that makes their disks independent')
    .addHelpText('after', '\nExample:\n  $ holdfast consolidation ls')
    .action(
      action(async (context) => {
        const all = (await (await context.catalog()).consolidations.list()).map(shown);
        context.output.result(all, () =>
          table(
            ['VM', 'BACKUP', 'STATE', 'RATE', 'SINCE', 'JOB'],
            all.map((one) => [
              one.vm.name,
              shortId(one.backupId),
              one.state,
              rateText(one.rateMBps),
              one.since,
              one.jobId,
            ]),
            'no VM depends on a backup',
          ),
        );
      }),
    );
  consolidation
    .command('resume')
    .description('go on with a consolidation that was cancelled or ended by force')
    .argument('<vm>', 'name or UUID', parseVm)
    .option('--rate <MBps>', 'megabytes per second from now on; 0 = as fast as it goes (default: as before)', parseRate)
    .option('--no-wait', 'print the job and return')
    .addHelpText('after', '\nExample:\n  $ holdfast consolidation resume web-1 --rate 100')
    .action(
      action(async (context, name: string, flags: { rate?: number; wait: boolean }) => {
        const one = await consolidationOf(context, name);
        const request = consolidateDisksRequest.parse({ vm: one.vm.uuid, rateMBps: flags.rate });
        const run = await startConsolidateDisks(await context.client(), request, consolidationJob(one));
        const done = await followOrLeave<ConsolidatedVm>(run, flags, context.output);
        if (done === undefined) return;
        context.output.result(done, () => consolidatedText(done));
      }),
    );
  addUndoCommand(consolidation);
  consolidation
    .command('rate')
    .description('change how fast the disks are pulled')
    .argument('<vm>', 'name or UUID', parseVm)
    .argument('<MBps>', 'megabytes per second; 0 = as fast as it goes', parseRate)
    .addHelpText('after', '\nExample:\n  $ holdfast consolidation rate web-1 50')
    .action(
      action(async (context, name: string, rateMBps: number) => {
        const one = await consolidationOf(context, name);
        const client = await context.client();
        await client.workflow.getHandle(consolidationJob(one)).signal('setRate', rateMBps);
        context.output.result(
          { ...shown(one), rateMBps },
          () => `VM ${one.vm.name}: ${rateText(rateMBps)} from now on`,
        );
      }),
    );
}

function addUndoCommand(consolidation: Command): void {
  consolidation
    .command('undo')
    .description('undo a quick restore whose consolidation was cancelled or given up: former disks and definition back')
    .argument('<vm>', 'name or UUID', parseVm)
    .option('--dry-run', 'tell what would be lost and what comes back, and change nothing')
    .addHelpText(
      'after',
      '\nThe VM must be off. What its guest wrote since the restore is lost; a VM that was restored as a new one goes.\n\nExamples:\n  $ holdfast job cancel consolidateDisks-web-1-3f2c9a41\n  $ holdfast consolidation undo web-1',
    )
    .action(
      action(async (context, name: string, flags: { dryRun?: boolean }) => {
        const one = await consolidationOf(context, name);
        const { define, disks } = one.prepared;
        const text = define
          ? `VM ${one.vm.name} and its disks ${disks.map(({ path }) => path).join(', ')}`
          : `what the guest of VM ${one.vm.name} wrote since ${one.since}; its former disks are back`;
        if (flags.dryRun === true) {
          context.output.result({ ...shown(one), dryRun: true, removesVm: define }, () => `would go: ${text}`);
          return;
        }
        if (one.state !== 'stopped' && one.state !== 'damaged') {
          throw new HoldfastError(
            'DomainBusy',
            `VM ${one.vm.name}: its disks are being pulled; cancel job ${consolidationJob(one)} first`,
          );
        }
        const request = consolidateDisksRequest.parse({ vm: one.vm.uuid, undo: true });
        const run = await startConsolidateDisks(await context.client(), request, consolidationJob(one));
        await followRun<ConsolidatedVm>(run, context.output);
        context.output.result({ ...shown(one), state: 'undone' }, () => `gone: ${text}`);
      }),
    );
}

/** What a consolidation that is done tells a person. */
export const consolidatedText = ({ vm, backupId, disks }: ConsolidatedVm): string =>
  [
    `the disks of VM ${vm.name} depend on backup ${shortId(backupId)} no longer`,
    table(
      ['DISK', 'PATH', 'VERIFIED'],
      disks.map(({ target, path, verified }) => [target, path, verified ? 'yes' : 'no']),
      'no disks',
    ),
  ].join('\n');

const rateText = (rateMBps: number): string => (rateMBps === 0 ? 'as fast as it goes' : `${rateMBps} MB/s`);

async function consolidationOf(context: CommandContext, vm: string): Promise<Consolidation> {
  const [one, ...others] = await (await context.catalog()).consolidations.findByVm(vm);
  if (one === undefined) {
    throw new HoldfastError('NothingToConsolidate', `VM ${vm} has no disks that depend on a backup`);
  }
  if (others.length > 0) throw new HoldfastError('VmAmbiguous', `several VMs are called ${vm}; give the UUID`);
  return one;
}
