import type { Command } from 'commander';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { findBackup } from '../../operations/find-backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { parseIdPrefix } from '../backup-id.ts';
import { action } from '../context.ts';
import { sizeText } from '../output.ts';
import { stopSignal } from '../stop-signal.ts';

/** @param backup the command `holdfast backup` */
export function addMountCommand(backup: Command): void {
  backup
    .command('mount')
    .description('serve every disk of a backup read-only over NBD, each byte compared with its hash, until Ctrl-C')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .option(
      '--socket-dir <dir>',
      'folder for the sockets, one for each disk (default: a new one that your user alone may enter)',
    )
    .addHelpText(
      'after',
      `
Examples:
  $ holdfast backup mount 3f2c9a41 --socket-dir /run/user/1000/b
  and in a second terminal, for disk vda:
  $ qemu-img convert -O qcow2 'nbd+unix:///vda?socket=/run/user/1000/b/vda' vda.qcow2
  $ nbdcopy 'nbd+unix:///vda?socket=/run/user/1000/b/vda' /srv/vda.raw
  $ nbd-client -unix /run/user/1000/b/vda /dev/nbd0 -N vda -readonly && mount -o ro /dev/nbd0p1 /mnt`,
    )
    .action(
      action(async (context, id: string, flags: { socketDir?: string }) => {
        const { output } = context;
        const signal = stopSignal();
        const catalog = await context.catalog();
        const { backup: found } = await findBackup(catalog, id);
        const repository = await catalog.repositories.find(found.repository);
        if (repository === undefined) {
          throw new HoldfastError('RepositoryUnavailable', `repository ${found.repository} is not known any more`);
        }
        const { openBackup } = await import('../../gateway/open-backup.ts');
        const { openBlobStore } = await import('../../repository/open-repository.ts');
        const { openRepository } = await import('../../repository/identity.ts');
        const { keysFor } = await import('../../repository/repository-keys.ts');
        const store = openBlobStore(repository.location);
        await openRepository(store, repository);
        const keys = await keysFor(store, repository);
        await using folder = await socketFolder(flags.socketDir);
        const told = new Set<string>();
        await using opened = await openBackup(
          store,
          { vmUuid: found.vm.uuid, backupId: found.id },
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
        output.result({ backupId: found.id, vm: found.vm, disks }, () =>
          disks.map(({ target, sizeBytes, uri }) => `${target}  ${sizeText(sizeBytes)}  ${uri}`).join('\n'),
        );
        output.note('served until Ctrl-C');
        if (!signal.aborted) await once(signal, 'abort');
      }),
    );
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
