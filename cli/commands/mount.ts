import type { Command } from 'commander';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseStoredId } from '../backup-id.ts';
import { actionOrFrom, latestOfOption, withFromOptions, type FromFlags } from '../from-repository.ts';
import { sizeText } from '../output.ts';
import { readableOfCatalog, readableOfPlace, readFromOption, type ReadableBackup } from '../readable-backup.ts';
import { stopSignal } from '../stop-signal.ts';

interface MountFlags extends FromFlags {
  vm?: string;
  repo?: string;
  socketDir?: string;
}

/** @param backup the command `holdfast backup` */
export function addMountCommand(backup: Command): void {
  const mount = backup
    .command('mount')
    .description('serve every disk of a backup read-only over NBD, each byte compared with its hash, until Ctrl-C')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique; with --from also `latest`', parseStoredId)
    .option(
      '--socket-dir <dir>',
      'folder for the sockets, one for each disk (default: a new one that your user alone may enter)',
    );
  withFromOptions(mount)
    .addOption(latestOfOption())
    .addOption(readFromOption())
    .addHelpText(
      'after',
      `
Examples:
  $ holdfast backup mount 3f2c9a41 --socket-dir /run/user/1000/b
  $ holdfast backup mount latest --vm web-1 --from /mnt/backups --socket-dir /run/user/1000/b
  and in a second terminal, for disk vda:
  $ qemu-img convert -O qcow2 'nbd+unix:///vda?socket=/run/user/1000/b/vda' vda.qcow2
  $ nbdcopy 'nbd+unix:///vda?socket=/run/user/1000/b/vda' /srv/vda.raw
  $ nbd-client -unix /run/user/1000/b/vda /dev/nbd0 -N vda -readonly && mount -o ro /dev/nbd0p1 /mnt`,
    )
    .action(
      actionOrFrom(
        async (context, id: string, flags: MountFlags) =>
          serve(await readableOfCatalog(context, id, flags.repo), flags),
        async (from, id, flags) => serve(await readableOfPlace(from, id, flags), flags),
      ),
    );
}

/** Until somebody asks the command to end. */
async function serve({ output, store, keys, id, vm }: ReadableBackup, { socketDir }: MountFlags): Promise<void> {
  const signal = stopSignal();
  const { openBackup } = await import('../../gateway/open-backup.ts');
  await using folder = await socketFolder(socketDir);
  const told = new Set<string>();
  await using opened = await openBackup(
    store,
    { vmUuid: vm.uuid, backupId: id },
    {
      socketFolder: folder.path,
      keys,
      onProblem({ message }) {
        if (!told.has(message)) output.note(message);
        told.add(message);
      },
    },
  );
  const { disks } = opened;
  output.result({ backupId: id, vm: { uuid: vm.uuid, name: vm.name }, disks }, () =>
    disks.map(({ target, sizeBytes, uri }) => `${target}  ${sizeText(sizeBytes)}  ${uri}`).join('\n'),
  );
  output.note('served until Ctrl-C');
  if (!signal.aborted) await once(signal, 'abort');
}

/** A folder of the user's stays, with what else is in it; one of our own goes. */
async function socketFolder(given: string | undefined): Promise<{ path: string } & AsyncDisposable> {
  if (given === undefined) {
    const path = await mkdtemp(join(tmpdir(), 'holdfast-mount-'));
    return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
  }
  const path = resolve(given);
  await mkdir(path, { recursive: true, mode: 0o700 });
  return { path, [Symbol.asyncDispose]: () => Promise.resolve() };
}
