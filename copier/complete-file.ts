import type { Qcow2Layout } from '../qcow2/format.ts';
import { encodeHeader } from '../qcow2/header.ts';
import { encodeTables, type MappedCluster } from '../qcow2/tables.ts';
import type { CopyTarget } from './copy-target.ts';
import type { FinishedFile } from './journal.ts';
import { TaskBuffers } from './thread-buffers.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Writes what the data leaves open: gaps, tables and, last, the header. */
export async function completeFile(
  target: CopyTarget,
  image: {
    layout: Qcow2Layout;
    /** In the order of the disk. */
    clusters: Iterable<MappedCluster>;
    hasCompressed: boolean;
    backingFileName?: string | undefined;
    /** The stored file must have another length than this: then it is a cluster longer. */
    otherThanBytes?: number | undefined;
  },
): Promise<FinishedFile> {
  const { layout, clusters, hasCompressed, backingFileName, otherThanBytes } = image;
  const clusterBytes = 2 ** layout.clusterBits;
  const buffers = new TaskBuffers();
  const memory = buffers.take(SEGMENT_BYTES);
  try {
    const tailOffset = await target.endData();
    const tables = encodeTables(layout, clusters, tailOffset);
    let at = tailOffset;
    let filled = 0;
    const flush = async (isEnd: boolean) => {
      await target.append(memory.subarray(0, filled), isEnd);
      at += filled;
      filled = 0;
    };
    let cluster = tables.next();
    for (; cluster.done !== true; cluster = tables.next()) {
      if (filled === memory.length) await flush(false); // not before: the last bytes of the file are told as such
      filled += cluster.value.copy(memory, filled);
    }
    if (target.storedLength(at + filled) === otherThanBytes) {
      if (filled === memory.length) await flush(false);
      memory.fill(0, filled, filled + clusterBytes);
      filled += clusterBytes;
    }
    await flush(true);
    const compression = hasCompressed ? 'zstd' : 'none'; // an image without any opens in every QEMU
    const backing = backingFileName === undefined ? undefined : { fileName: backingFileName, format: 'qcow2' as const };
    const header = memory.subarray(0, clusterBytes);
    encodeHeader({ ...layout, compression, backing, tables: cluster.value }).copy(header);
    return await target.finish(header);
  } finally {
    buffers.giveBack();
  }
}
