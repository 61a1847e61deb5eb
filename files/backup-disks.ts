import { join } from 'node:path';
import { startChainServer } from '../activities/host/chain-server.ts';
import { endImageServer, type ImageServer } from '../activities/host/image-server.ts';
import { diskOfFile, filesOfDisk, readManifestChain, requireFiles } from '../activities/host/restore-chain.ts';
import { chainForQemu } from '../activities/host/stored-chain-files.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { NbdDisk } from './guestfish.ts';

export interface ServedDisk extends NbdDisk {
  target: string;
}

/** The disks of a backup, each as an NBD export on a unix socket in `folder`, read-only. */
export async function serveBackup(
  store: BlobStore,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
  { folder, signal }: { folder: string; signal: AbortSignal },
): Promise<AsyncDisposable & { disks: ServedDisk[] }> {
  const chain = await readManifestChain(store, vmUuid, backupId);
  const manifest = chain.get(backupId);
  if (manifest === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${backupId}`);
  await using servers = new AsyncDisposableStack();
  const disks: ServedDisk[] = [];
  for (const { target } of manifest.disks) {
    const files = filesOfDisk(chain, backupId, target);
    await requireFiles(
      store,
      files.map((link) => diskOfFile(chain, link)),
    );
    const server: ImageServer = { socketPath: join(folder, target), pidFile: join(folder, `${target}.pid`) };
    servers.defer(() => endImageServer(server));
    const paths = await chainForQemu(store, chain, { chain: files });
    await startChainServer({ files: paths.toReversed(), exportName: target, owner: undefined }, server, { signal });
    disks.push({ target, socketPath: server.socketPath, exportName: target });
  }
  const kept = servers.move();
  return { disks, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
