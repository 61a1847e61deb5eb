import { Moved, type TaskHandler, type ThreadTask } from '../copier/thread-task.ts';
import { decompressCluster } from '../qcow2/decompress.ts';

export interface DecodeClustersTask extends ThreadTask {
  kind: 'decode-clusters';
  /** Each: compressed data of one cluster, and what follows it in its last sector. */
  stored: Uint8Array[];
  compression: 'deflate' | 'zstd';
  clusterBytes: number;
}

/** Decompresses clusters, each into memory of its own. @throws Qcow2Error */
export const handle: TaskHandler<DecodeClustersTask, Moved<Uint8Array[]>> = async (task) => {
  const clusters = task.stored.map((stored) => {
    const bytes = Buffer.from(stored.buffer as ArrayBuffer, stored.byteOffset, stored.length);
    return new Uint8Array(decompressCluster(bytes, task.compression, task.clusterBytes));
  });
  return new Moved(
    clusters,
    clusters.map(({ buffer }) => buffer),
  );
};
