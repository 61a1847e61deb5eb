import type { ChainFile } from '../copier/contract.ts';
import { listenNbd } from '../nbd/server.ts';
import { openChainDisk } from './chain-disk.ts';
import { PortionCache } from './portion-cache.ts';
import { createGatewayThreads, PortionReader } from './portion-reader.ts';
import type { KeptSegments } from './segment-folder.ts';

/** A disk of a backup, and where it is served. */
export interface DiskToServe {
  /** Name of the NBD export: the disk's target. */
  exportName: string;
  /** Unix socket; it has this export alone. */
  socketPath: string;
  virtualSizeBytes: number;
  /** Base first. */
  chain: ChainFile[];
}

export interface ServeOptions {
  /** Memory for what was read and decoded, of all disks together. */
  cacheBytes: number;
  /** Where segments that come from another machine are kept; undefined: nowhere. */
  kept?: KeptSegments | undefined;
  /** Who may connect besides this process's user. */
  owner?: { uid: number; gid: number } | undefined;
  /** What was refused to a client, and why: altered bytes, a repository that does not answer. */
  onProblem: (error: Error) => void;
}

/** Of the cache, for one reader that goes from front to back. */
const READ_AHEAD_SHARE = 4;

/**
 * Serves disks of a backup read-only over NBD, each as one raw disk whatever it is stored in, until it is disposed.
 * Headers and tables of all of them have been read and compared when it returns.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export async function serveDisks(
  disks: readonly DiskToServe[],
  { cacheBytes, kept, owner, onProblem }: ServeOptions,
): Promise<AsyncDisposable> {
  const ended = new AbortController();
  await using opened = new AsyncDisposableStack();
  const threads = opened.use(createGatewayThreads());
  opened.defer(() => ended.abort(new Error('the gateway ends')));
  const { signal } = ended;
  const reader = new PortionReader({ threads, cache: new PortionCache(cacheBytes), kept, signal });
  const options = { readAheadBytes: Math.floor(cacheBytes / READ_AHEAD_SHARE), kept, signal };
  const served = await Promise.all(
    disks.map(async (disk) => ({ disk, served: opened.use(await openChainDisk(disk, reader, options)) })),
  );
  for (const { disk, served: it } of served) {
    const { socketPath, exportName } = disk;
    const exports = new Map([[exportName, it]]);
    opened.use(await listenNbd({ socketPath, exports, owner, onProblem }));
  }
  const owned = opened.move();
  return { [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Address of an export for any NBD client. Source: NetworkBlockDevice/nbd doc/uri.md */
export const nbdUri = ({ exportName, socketPath }: Pick<DiskToServe, 'exportName' | 'socketPath'>): string =>
  `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socketPath).replaceAll('%2F', '/')}`;
