import type { Command } from 'commander';
import { defaultSocketPath } from '../../libvirt/address.ts';
import { action } from '../context.ts';
import { table } from '../output.ts';
import { defaultHost, parseName } from './dev.ts';

export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('check this host: libvirt and QEMU, permissions, space, agents, clock, Temporal and workers')
    .option('--libvirt <socket>', "libvirt's socket (default: that of holdfast dev, else the system's)")
    .option('--host <name>', 'name of this KVM host (default: that of holdfast dev, else this machine)', parseName)
    .addHelpText(
      'after',
      '\nEnds with 1 when a check fails.\n\nExamples:\n  $ holdfast doctor\n  $ holdfast doctor --json --host kvm-1',
    )
    .action(
      action(async (context, flags: { libvirt?: string; host?: string }) => {
        const { connectLibvirt, parseLibvirtAddress } = await import('../../libvirt/libvirt.ts');
        const { examine } = await import('../doctor/examine.ts');
        const { dev } = context.installation;
        const address = parseLibvirtAddress(flags.libvirt ?? dev?.libvirt ?? defaultSocketPath());
        await using libvirt = connectLibvirt(address);
        const checks = await examine({
          context,
          libvirt,
          socketPath: address.kind === 'unix' ? address.path : undefined,
          host: flags.host ?? dev?.host ?? defaultHost(),
        });
        const failed = checks.filter(({ state }) => state === 'fail').length;
        context.output.result({ healthy: failed === 0, checks }, () =>
          [
            table(
              ['', 'CHECK', 'FOUND'],
              checks.map(({ name, state, message }) => [state, name, message]),
              '',
            ),
            '',
            failed === 0 ? 'nothing stands in the way of backups' : `${failed} of ${checks.length} checks failed`,
          ].join('\n'),
        );
        if (failed > 0) process.exitCode = 1;
      }),
    );
}
