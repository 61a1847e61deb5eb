/**
 * Numbers of the qcow2 format, version 3. All integers in a file are big-endian.
 * Source: QEMU docs/interop/qcow2.txt
 */
export const QCOW2_MAGIC = 0x514649fb; // "QFI\xfb"
export const QCOW2_VERSION = 3;
/** Header with the compression type: 104 bytes of version 3, one byte of type, padded to a multiple of 8. */
export const HEADER_BYTES = 112;
/** Incompatible feature bit 3: the compression type is not zlib. */
export const INCOMPATIBLE_COMPRESSION_TYPE = 0x8;
export const COMPRESSION_ZLIB = 0;
export const COMPRESSION_ZSTD = 1;
export const EXTENSION_END = 0;
export const EXTENSION_BACKING_FORMAT = 0xe2792aca;
export const EXTENSION_FEATURE_NAMES = 0x6803f857;
/** A refcount is 2^4 = 16 bits wide. */
export const REFCOUNT_ORDER = 4;
export const REFCOUNT_BYTES = 2;
/** L1, L2 and refcount table entries. */
export const ENTRY_BYTES = 8;
/** Upper word of an L1 entry, or of the L2 entry of a plain cluster: bit 63, refcount is exactly one. */
export const COPIED_HIGH = 0x8000_0000;
/** Upper word of an L2 entry: bit 62, the cluster is compressed. */
export const COMPRESSED_HIGH = 0x4000_0000;
/** An L2 entry's bit 0: the cluster reads as zeroes. */
export const ZERO_ENTRY = 1;
/** Lengths of compressed clusters are counted in these. */
export const SECTOR_BYTES = 512;
/** Plain clusters' offsets have 56 bits; a compressed cluster's has 62 - (clusterBits - 8), here at least 49. */
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
/** QEMU opens no image with a larger L1 table. Source: QEMU block/qcow2.h, QCOW_MAX_L1_SIZE */
export const MAX_L1_BYTES = 32 * 1024 * 1024;
/** Longest name of a backing file. */
export const MAX_BACKING_NAME_BYTES = 1023;

/** Shape of an image: all that its tables depend on besides where the data lies. */
export interface Qcow2Layout {
  /** 9 to 21. */
  clusterBits: number;
  /** A multiple of 512; need not be one of the cluster size. */
  virtualSizeBytes: number;
}

export const clusterBytesOf = (layout: Qcow2Layout): number => 2 ** layout.clusterBits;

/** Guest clusters of the disk; the last may reach past its end. */
export const guestClustersOf = (layout: Qcow2Layout): number =>
  Math.ceil(layout.virtualSizeBytes / clusterBytesOf(layout));

/** @throws RangeError when no image of this shape can exist, with the reason */
export function checkLayout(layout: Qcow2Layout): void {
  const { clusterBits, virtualSizeBytes } = layout;
  if (!Number.isInteger(clusterBits) || clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw new RangeError(`qcow2 clusters have 2^9 to 2^21 bytes, not 2^${clusterBits}`);
  }
  if (!Number.isSafeInteger(virtualSizeBytes) || virtualSizeBytes < 0 || virtualSizeBytes % SECTOR_BYTES !== 0) {
    throw new RangeError(`a qcow2 disk has a multiple of ${SECTOR_BYTES} bytes, not ${virtualSizeBytes}`);
  }
  if (l1EntriesOf(layout) * ENTRY_BYTES > MAX_L1_BYTES) {
    throw new RangeError(
      `a qcow2 disk of ${virtualSizeBytes} bytes needs clusters of more than 2^${clusterBits} bytes`,
    );
  }
}

/** Entries of the L1 table. QEMU wants one even for a disk of size 0. */
export function l1EntriesOf(layout: Qcow2Layout): number {
  return Math.max(1, Math.ceil(guestClustersOf(layout) / (clusterBytesOf(layout) / ENTRY_BYTES)));
}

/** Writes a non-negative safe integer as 64 bits, big-endian, with `high` or-ed into its upper word. */
export function writeEntry(into: Buffer, at: number, value: number, high = 0): void {
  into.writeUInt32BE((Math.floor(value / 0x1_0000_0000) | high) >>> 0, at);
  into.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}
