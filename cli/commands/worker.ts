import type { Command } from 'commander';
import { defaultSocketPath } from '../../libvirt/address.ts';
import { parseBytes } from '../bandwidth-rules.ts';
import { action } from '../context.ts';
import { stopSignal } from '../stop-signal.ts';
import { parseCount, parseName } from './dev.ts';

const log = (line: string): void => void process.stdout.write(`${line}\n`);

export function addWorkerCommands(program: Command): void {
  const worker = program.command('worker').description('run a worker until it is stopped');
  worker
    .command('control')
    .description('run the workflows, and the steps that need the catalog')
    .option('--metrics <address>', 'serve Prometheus metrics, say on 127.0.0.1:9464')
    .addHelpText('after', '\nExample:\n  $ holdfast worker control --metrics 127.0.0.1:9464')
    .action(
      action(async ({ installation }, options: { metrics?: string }) => {
        const { runControlWorker } = await import('../../workers/control.ts');
        await runControlWorker(installation, { metrics: options.metrics, signal: stopSignal(), log });
      }),
    );
  worker
    .command('host')
    .description('run the steps on this KVM host')
    .requiredOption('--host <name>', 'name of this KVM host', parseName)
    .option('--libvirt <socket>', "libvirt's socket", defaultSocketPath())
    .option('--slots <n>', 'disks copied at once', parseCount, 4)
    .option('--job-slots <n>', 'stored backups compressed or validated at once', parseCount, 1)
    .option('--scratch <dir>', 'where QEMU keeps what guests overwrite during a backup')
    .option(
      '--gateway-cache <bytes>',
      'room on disk for what each gateway reads of a bucket, like 10G (default), or none',
      (value: string) => parseBytes(value) ?? 0,
    )
    .option('--metrics <address>', 'serve Prometheus metrics, say on 127.0.0.1:9465')
    .addHelpText(
      'after',
      '\nExample:\n  $ holdfast worker host --host kvm-1 --slots 8 --scratch /var/lib/holdfast/scratch',
    )
    .action(
      action(
        async (
          { installation },
          options: {
            host: string;
            libvirt: string;
            slots: number;
            jobSlots: number;
            scratch?: string;
            gatewayCache?: number;
            metrics?: string;
          },
        ) => {
          const { runHostWorker } = await import('../../workers/host.ts');
          await runHostWorker(installation, {
            ...options,
            scratchDir: options.scratch,
            gatewayCacheBytes: options.gatewayCache,
            metrics: options.metrics,
            signal: stopSignal(),
            log,
          });
        },
      ),
    );
}
