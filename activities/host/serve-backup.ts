import { join } from 'node:path';
import { CACHE_BYTES, type GatewaySpec } from '../../gateway/spec.ts';
import type { NbdExport } from '../../libvirt/backing-chain-xml.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';
import type { HostDependencies } from './dependencies.ts';
import { diskOfFile, type ManifestChain } from './restore-chain.ts';

/** A disk of a backup, and the files it is made of, base first. */
export type DiskToServe = Pick<DiskToRestore, 'target' | 'virtualSizeBytes' | 'chain'>;

/**
 * Starts the gateway of a restore or validation. Its sockets lie in a folder that QEMU's user alone may enter. Repeatable. Gives
 * the exports by target.
 * @throws HoldfastError GatewayFailed
 */
export async function serveBackup(
  { state, gateways }: Pick<HostDependencies, 'state' | 'gateways'>,
  backup: {
    id: string;
    repository: RepositoryRecord;
    chain: ManifestChain;
    disks: readonly DiskToServe[];
    owner: { uid: number; gid: number } | undefined;
  },
  { signal }: { signal: AbortSignal },
): Promise<Record<string, NbdExport>> {
  const { id, repository, owner } = backup;
  const folder = state.socketFolder(id);
  const disks = backup.disks.map(({ target, virtualSizeBytes, chain }): GatewaySpec['disks'][number] => ({
    target,
    socketPath: join(folder, target),
    virtualSizeBytes,
    files: chain.map((link) => {
      const { file, storedBytes, encryption, sums } = diskOfFile(backup.chain, link);
      return { file, storedBytes, ...(encryption === undefined ? {} : { encryption }), sums };
    }),
  }));
  await gateways.start(
    {
      version: 1,
      id,
      repository,
      disks,
      owner: owner ?? null,
      cacheBytes: CACHE_BYTES,
      diskCacheBytes: gateways.diskCacheBytes,
    },
    { signal },
  );
  return Object.fromEntries(disks.map(({ target, socketPath }) => [target, { socketPath, exportName: target }]));
}
