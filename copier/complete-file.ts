import { createHash } from 'node:crypto';
import type { Qcow2Layout } from '../qcow2/format.ts';
import { encodeHeader } from '../qcow2/header.ts';
import { encodeTables, type MappedCluster } from '../qcow2/tables.ts';
import type { BlobSink, BlobSinkDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import type { SegmentSum } from './contract.ts';
import type { FileSpace } from './file-space.ts';
import type { FinishedFile } from './journal.ts';
import { TaskBuffers } from './thread-buffers.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Writes what the data leaves open: gaps, tables and, last, the header. */
export async function completeFile(
  options: { sink: BlobSinkDescriptor; backingFileName?: string; signal: AbortSignal },
  image: {
    layout: Qcow2Layout;
    /** In the order of the disk. */
    clusters: Iterable<MappedCluster>;
    hasCompressed: boolean;
    space: FileSpace;
    /** The file must have another length than this: then it is a cluster longer. */
    otherThanBytes?: number;
  },
): Promise<FinishedFile> {
  const { layout, clusters, hasCompressed, space, otherThanBytes } = image;
  const { signal, backingFileName } = options;
  const tailOffset = space.align();
  const tail: SegmentSum[] = [];
  const buffers = new TaskBuffers();
  const memory = buffers.take(SEGMENT_BYTES);
  await using sink = await openSink(options.sink);
  try {
    for (const gap of space.gaps) {
      memory.fill(0);
      for (let done = 0; done < gap.lengthBytes; done += memory.length) {
        const bytes = memory.subarray(0, Math.min(memory.length, gap.lengthBytes - done));
        tail.push(await write(sink, gap.offset + done, bytes, signal));
      }
    }
    const tables = encodeTables(layout, clusters, tailOffset);
    let at = tailOffset;
    let filled = 0;
    const flush = async () => {
      if (filled > 0) tail.push(await write(sink, at, memory.subarray(0, filled), signal));
      at += filled;
      filled = 0;
    };
    let cluster = tables.next();
    for (; cluster.done !== true; cluster = tables.next()) {
      filled += cluster.value.copy(memory, filled);
      if (filled === memory.length) await flush();
    }
    await flush();
    if (at === otherThanBytes) {
      filled = 2 ** layout.clusterBits;
      memory.fill(0, 0, filled);
      await flush();
    }
    const compression = hasCompressed ? 'zstd' : 'none'; // an image without any opens in every QEMU
    const backing = backingFileName === undefined ? undefined : { fileName: backingFileName, format: 'qcow2' as const };
    const header = memory.subarray(0, 2 ** layout.clusterBits);
    encodeHeader({ ...layout, compression, backing, tables: cluster.value }).copy(header);
    tail.push(await write(sink, 0, header, signal));
    return { storedBytes: at, tail };
  } finally {
    buffers.giveBack();
  }
}

async function write(sink: BlobSink, offset: number, bytes: Uint8Array, signal: AbortSignal): Promise<SegmentSum> {
  signal.throwIfAborted();
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  await sink.write(offset, bytes);
  return { offset, lengthBytes: bytes.length, sha256 };
}
