import { Moved, type TaskHandler, type ThreadTask } from '../copier/thread-task.ts';
import { decompressCluster } from '../qcow2/decompress.ts';
import { freeMemory } from '../repository/free-memory.ts';

export interface DecodeClustersTask extends ThreadTask {
  kind: 'decode-clusters';
  /** Compressed data of all clusters. One memory: each that goes to another thread costs, more than its bytes do. */
  stored: Uint8Array<ArrayBuffer>;
  /** Where each cluster lies in `stored`, with what follows it in its last sector. */
  places: { at: number; storedBytes: number }[];
  compression: 'deflate' | 'zstd';
  clusterBytes: number;
}

/** Decompresses clusters, one behind the other into one memory. @throws Qcow2Error */
export const handle: TaskHandler<DecodeClustersTask, Moved<Uint8Array>> = (task) => {
  const { places, compression, clusterBytes } = task;
  const stored = Buffer.from(task.stored.buffer, task.stored.byteOffset, task.stored.length);
  const decoded = new Uint8Array(places.length * clusterBytes);
  for (const [index, { at, storedBytes }] of places.entries()) {
    const cluster = decompressCluster(stored.subarray(at, at + storedBytes), compression, clusterBytes);
    decoded.set(cluster, index * clusterBytes);
    freeMemory(cluster);
  }
  return Promise.resolve(new Moved(decoded, [decoded.buffer]));
};
