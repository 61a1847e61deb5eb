import type { Command } from 'commander';
import { pinBackup } from '../../operations/pin-backup.ts';
import { action } from '../context.ts';
import { shortId } from '../output.ts';
import { parseIdPrefix } from '../backup-id.ts';

const ID = 'id of the backup, or a beginning of it that is unique';

/** @param backup the command `holdfast backup` */
export function addPinCommands(backup: Command): void {
  backup
    .command('pin')
    .description('keep a backup whatever retention says, and refuse to delete it')
    .argument('<id>', ID, parseIdPrefix)
    .option('--note <text>', 'why it is kept')
    .addHelpText('after', '\nExample:\n  $ holdfast backup pin 3f2c9a41 --note "before the upgrade"')
    .action(
      action(async (context, id: string, flags: { note?: string }) => {
        const pinned = await pinBackup(await context.catalog(), id, { pinned: true, note: flags.note });
        context.output.result(pinned, () => `backup ${shortId(pinned.id)} of VM ${pinned.vm.name} is pinned`);
      }),
    );
  backup
    .command('unpin')
    .description('leave a pinned backup to retention again')
    .argument('<id>', ID, parseIdPrefix)
    .addHelpText('after', '\nExample:\n  $ holdfast backup unpin 3f2c9a41')
    .action(
      action(async (context, id: string) => {
        const unpinned = await pinBackup(await context.catalog(), id, { pinned: false });
        context.output.result(unpinned, () => `backup ${shortId(unpinned.id)} of VM ${unpinned.vm.name} is not pinned`);
      }),
    );
}
