import { join } from 'node:path';
import { openChainFiles } from '../activities/host/chain-files.ts';
import { diskOfFile, filesOfDisk, readManifestChain } from '../activities/host/restore-chain.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import type { RepositoryKeys } from '../repository/repository-keys.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { Manifest } from '../schemas/manifest.ts';
import { nbdUri, serveDisks, type DiskToServe } from './serve-disks.ts';
import { CACHE_BYTES } from './spec.ts';

export interface OpenedBackup extends AsyncDisposable {
  manifest: Manifest;
  /** `uri`: for any NBD client, say qemu-img or nbdcopy. */
  disks: { target: string; sizeBytes: number; socketPath: string; uri: string }[];
}

/**
 * Serves every disk of a backup read-only, by this process, on sockets in a folder that is there. Disposal ends it.
 * @param options.keys of an encrypted repository; null where there are none
 * @throws HoldfastError BackupFileMissing, BackupNotRestorable; CopierError `integrity`, `file-missing`; RepositoryError; BlobStoreError
 */
export async function openBackup(
  store: BlobStore,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
  options: { socketFolder: string; keys: RepositoryKeys | null; onProblem: (error: Error) => void },
): Promise<OpenedBackup> {
  const { socketFolder, keys, onProblem } = options;
  const chain = await readManifestChain(store, vmUuid, backupId);
  const manifest = chain.get(backupId);
  if (manifest === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${backupId}`);
  const disks = await Promise.all(
    manifest.disks.map(async ({ target, virtualSizeBytes }): Promise<DiskToServe> => {
      const files = filesOfDisk(chain, backupId, target).map((link) => diskOfFile(chain, link));
      return {
        exportName: target,
        socketPath: join(socketFolder, target),
        virtualSizeBytes,
        chain: await openChainFiles(store, keys, files),
      };
    }),
  );
  const server = await serveDisks(disks, { cacheBytes: CACHE_BYTES, onProblem });
  return {
    manifest,
    disks: disks.map((disk) => ({
      target: disk.exportName,
      sizeBytes: disk.virtualSizeBytes,
      socketPath: disk.socketPath,
      uri: nbdUri(disk),
    })),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}
