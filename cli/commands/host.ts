import type { Command } from 'commander';
import { runId } from '../../operations/run-id.ts';
import { isServed } from '../../operations/worker-state.ts';
import { CONTROL_QUEUE, hostQueue } from '../../schemas/queues.ts';
import type { HostRecord } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action, type CommandContext } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { table } from '../output.ts';
import { parseCount, parseName } from './dev.ts';

export function addHostCommands(program: Command): void {
  const host = program.command('host').description('KVM hosts');
  host
    .command('ls')
    .description('list the hosts and whether their workers answer')
    .addHelpText('after', '\nExample:\n  $ holdfast host ls')
    .action(
      action(async (context) => {
        const catalog = await context.catalog();
        const vms = await catalog.vms.list();
        const hosts = await Promise.all(
          (await catalog.hosts.list()).map(async (record) => ({
            ...record,
            worker: await workerState(context, record),
            vms: vms.filter((vm) => vm.host === record.name).length,
          })),
        );
        context.output.result(hosts, () =>
          table(
            ['HOST', 'WORKER', 'VMS', 'SLOTS', 'LIBVIRT', 'QEMU', 'LAST SEEN'],
            hosts.map((row) => [
              row.name,
              row.worker,
              row.vms,
              row.slots,
              row.libvirtVersion,
              row.qemuVersion,
              row.lastSeenAt,
            ]),
            'no host yet; start a worker on one: holdfast worker host --host NAME',
          ),
        );
      }),
    );
  host
    .command('add')
    .description('make a host known, and take its inventory when its worker answers')
    .argument('<name>', 'name of the host, as its worker is started with', parseName)
    .option('--slots <n>', 'disks copied at once', parseCount)
    .addHelpText('after', '\nExample:\n  $ holdfast host add kvm-1 --slots 8')
    .action(
      action(async (context, name: string, options: { slots?: number }) => {
        const catalog = await context.catalog();
        const added = await catalog.hosts.upsert({ name, ...options });
        if ((await workerState(context, added)) === 'up') {
          const client = await context.client();
          const run = await client.workflow.start('inventoryHost', {
            taskQueue: CONTROL_QUEUE,
            workflowId: runId('inventory', name),
            args: [{ host: name }],
          });
          await followRun(run, context.output);
        }
        const record = (await catalog.hosts.find(name)) ?? added;
        context.output.result(
          record,
          () => `host ${name} added; start its worker there: holdfast worker host --host ${name}`,
        );
      }),
    );
  host
    .command('rm')
    .description('forget a host that has no VMs with backups')
    .argument('<name>', 'name of the host', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast host rm kvm-7')
    .action(
      action(async (context, name: string) => {
        const catalog = await context.catalog();
        if ((await catalog.hosts.find(name)) === undefined) {
          throw new HoldfastError('HostNotFound', `host: ${name} is not known; see: holdfast host ls`);
        }
        await catalog.hosts.remove(name);
        context.output.result({ name, removed: true }, () => `host ${name} removed`);
      }),
    );
}

/** Whether a worker takes tasks of the host's queue; `unknown` when Temporal does not answer. */
async function workerState(context: CommandContext, { name }: HostRecord): Promise<'up' | 'down' | 'unknown'> {
  try {
    return (await isServed(await context.client(), hostQueue(name), 'activities')) ? 'up' : 'down';
  } catch {
    return 'unknown';
  }
}
