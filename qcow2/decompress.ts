import { inflateRawSync, zstdDecompressSync } from 'node:zlib';
import { Qcow2Error } from './qcow2-error.ts';

/** Little-endian at the start of a frame. Source: RFC 8878, 3.1.1 */
const ZSTD_MAGIC = 0xfd2fb528;

/**
 * One compressed cluster.
 * @param stored the compressed data, and what follows it in its last sector
 * @returns exactly `clusterBytes` bytes
 * @throws Qcow2Error
 */
export function decompressCluster(stored: Buffer, compression: 'deflate' | 'zstd', clusterBytes: number): Buffer {
  // One byte more than is expected: else Node allocates a second chunk, only to find that nothing follows.
  const limits = { chunkSize: clusterBytes + 1, maxOutputLength: clusterBytes + 1 };
  let cluster: Buffer;
  try {
    cluster =
      compression === 'zstd'
        ? zstdDecompressSync(stored.subarray(0, zstdFrameBytes(stored)), limits)
        : inflateRawSync(stored, limits);
  } catch (error) {
    if (error instanceof Qcow2Error) throw error;
    throw new Qcow2Error(`has a compressed cluster that cannot be read: ${String(error)}`, { cause: error });
  }
  if (cluster.length !== clusterBytes) {
    throw new Qcow2Error(`has a compressed cluster of ${cluster.length} bytes instead of ${clusterBytes}`);
  }
  return cluster;
}

/**
 * Length of the zstd frame at the start: Node refuses a buffer in which something else follows.
 * Source: RFC 8878, 3.1.1: magic, frame header, blocks with a header of 3 bytes each, checksum of 4 bytes if flagged.
 */
function zstdFrameBytes(stored: Buffer): number {
  if (stored.length < 6 || stored.readUInt32LE(0) !== ZSTD_MAGIC)
    throw new Qcow2Error('has no zstd frame where it must');
  const descriptor = stored.readUInt8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const contentSizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  let at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
  for (let isLast = false; !isLast;) {
    if (at + 3 > stored.length) throw new Qcow2Error('has a zstd frame that is cut off');
    const header = stored.readUIntLE(at, 3);
    isLast = (header & 1) === 1;
    const isRepeatedByte = ((header >> 1) & 3) === 1;
    at += 3 + (isRepeatedByte ? 1 : header >> 3);
  }
  at += (descriptor & 0x04) === 0 ? 0 : 4;
  if (at > stored.length) throw new Qcow2Error('has a zstd frame that is cut off');
  return at;
}
