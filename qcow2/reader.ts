import { COMPRESSED_HIGH, COPIED_HIGH, ENTRY_BYTES, SECTOR_BYTES } from './format.ts';
import { Qcow2Error } from './qcow2-error.ts';
import { HEADER_READ_BYTES, readHeader } from './read-header.ts';
import type { ImageHeader } from './read-header.ts';

/** Bytes of a file that the reader may trust to be what was stored; what they say is checked all the same. */
export interface StoredBytes {
  sizeBytes: number;
  /** Exactly these bytes; they lie inside the file. The buffer may be a view that the next call overwrites. */
  read(offset: number, lengthBytes: number): Promise<Buffer>;
}

/** A stretch of the guest's disk that an image describes. Plain and zero clusters in a row are one mapping. */
export interface Mapping {
  guestOffset: number;
  /** Guest bytes: whole clusters. */
  lengthBytes: number;
  /** `zero` reads as zeroes and hides what a backing file holds there. */
  kind: 'plain' | 'compressed' | 'zero';
  /** 0 for `zero`. */
  hostOffset: number;
  /**
   * Bytes in the file. Plain: may be less than `lengthBytes` at the end of the disk. Compressed: up to this many, the
   * length is known in sectors of 512 bytes only, and what follows the compressed data belongs to others.
   */
  storedBytes: number;
}

export interface Qcow2Reader {
  header: ImageHeader;
  /** Whether the L1 table knows of anything in [start, end) of the guest's disk. */
  hasTables(start: number, end: number): boolean;
  /** What the image describes in [start, end), in guest order; both are multiples of its cluster size. */
  mappings(start: number, end: number): Promise<Mapping[]>;
}

/** Bits 9 to 55 of an L1 or L2 entry, in its upper and lower half. Source: QEMU docs/interop/qcow2.txt */
const OFFSET_HIGH = 0x00ffffff;
const OFFSET_LOW = 0xfffffe00;
const TWO_32 = 2 ** 32;

/**
 * Reads header and L1 table. Every offset and size is checked before it is used; memory is that of the L1 table and of
 * one L2 table at a time.
 * @throws Qcow2Error
 */
export async function openQcow2(file: StoredBytes): Promise<Qcow2Reader> {
  const header = readHeader(await file.read(0, Math.min(HEADER_READ_BYTES, file.sizeBytes)), file.sizeBytes);
  const l1 = Buffer.from(await file.read(header.l1Offset, header.l1Entries * ENTRY_BYTES));
  const { clusterBytes } = header;
  const tableSpan = clusterBytes * (clusterBytes / ENTRY_BYTES); // guest bytes that one L2 table describes
  let cached: { index: number; table: Buffer } | undefined;

  async function l2Table(index: number): Promise<Buffer | undefined> {
    if (cached?.index === index) return cached.table;
    const high = l1.readUInt32BE(index * ENTRY_BYTES);
    const low = l1.readUInt32BE(index * ENTRY_BYTES + 4);
    const offset = (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0);
    const reserved = (high & ~OFFSET_HIGH & ~COPIED_HIGH) !== 0 || (low & ~OFFSET_LOW) !== 0;
    if (reserved || offset % clusterBytes !== 0 || offset + clusterBytes > file.sizeBytes) {
      throw new Qcow2Error(`has a bad L1 entry ${index}: 0x${hex(high, low)}`);
    }
    if (offset === 0) return undefined;
    cached = { index, table: Buffer.from(await file.read(offset, clusterBytes)) };
    return cached.table;
  }

  return {
    header,
    hasTables(start, end) {
      const last = Math.min(Math.ceil(end / tableSpan), header.l1Entries);
      for (let index = Math.floor(start / tableSpan); index < last; index += 1) {
        if (l1.readUInt32BE(index * ENTRY_BYTES) !== 0 || l1.readUInt32BE(index * ENTRY_BYTES + 4) !== 0) return true;
      }
      return false;
    },
    async mappings(start, end) {
      const mappings: Mapping[] = [];
      const last = Math.min(end, header.virtualSizeBytes);
      for (let tableStart = start - (start % tableSpan); tableStart < last; tableStart += tableSpan) {
        const table = await l2Table(tableStart / tableSpan);
        if (!table) continue;
        const from = Math.max(start, tableStart);
        const to = Math.min(last, tableStart + tableSpan);
        readL2(table, { from, to, tableStart, header, fileBytes: file.sizeBytes }, mappings);
      }
      return mappings;
    },
  };
}

function readL2(
  table: Buffer,
  stretch: { from: number; to: number; tableStart: number; header: ImageHeader; fileBytes: number },
  mappings: Mapping[],
): void {
  const { from, to, tableStart, header, fileBytes } = stretch;
  const { clusterBytes } = header;
  for (let guestOffset = from; guestOffset < to; guestOffset += clusterBytes) {
    const index = (guestOffset - tableStart) / clusterBytes;
    const high = table.readUInt32BE(index * ENTRY_BYTES);
    const low = table.readUInt32BE(index * ENTRY_BYTES + 4);
    if (high === 0 && low === 0) continue;
    const mapping =
      (high & COMPRESSED_HIGH) === 0
        ? standard(high, low, guestOffset, stretch)
        : compressed(high, low, header, fileBytes);
    if (!mapping) continue;
    const before = mappings.at(-1);
    const joins =
      before?.kind === mapping.kind &&
      before.guestOffset + before.lengthBytes === guestOffset &&
      (mapping.kind === 'zero' ||
        (mapping.kind === 'plain' && before.hostOffset + before.lengthBytes === mapping.hostOffset));
    if (joins) {
      before.lengthBytes += clusterBytes;
      before.storedBytes += mapping.storedBytes;
    } else {
      mappings.push({ guestOffset, lengthBytes: clusterBytes, ...mapping });
    }
  }
}

type Stored = Pick<Mapping, 'kind' | 'hostOffset' | 'storedBytes'>;

/** Source: QEMU docs/interop/qcow2.txt, "Standard Cluster Descriptor". Bit 0: reads as zeroes (version 3). */
function standard(
  high: number,
  low: number,
  guestOffset: number,
  { header, fileBytes }: { header: ImageHeader; fileBytes: number },
): Stored | undefined {
  const { clusterBytes, virtualSizeBytes, version } = header;
  const hostOffset = (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0);
  const isZero = (low & 1) === 1;
  const reserved = (high & ~OFFSET_HIGH & ~COPIED_HIGH) !== 0 || (low & ~OFFSET_LOW & ~1) !== 0;
  // Of the last cluster only what belongs to the disk has to be there: QEMU writes no more.
  const storedBytes = Math.min(clusterBytes, virtualSizeBytes - guestOffset, Math.max(0, fileBytes - hostOffset));
  const neededBytes = isZero ? 0 : Math.min(clusterBytes, virtualSizeBytes - guestOffset);
  if (
    reserved ||
    (isZero && version === 2) ||
    hostOffset % clusterBytes !== 0 ||
    hostOffset > fileBytes ||
    storedBytes < neededBytes
  ) {
    throw new Qcow2Error(`has a bad L2 entry for guest offset ${guestOffset}: 0x${hex(high, low)}`);
  }
  if (isZero) return { kind: 'zero', hostOffset: 0, storedBytes: 0 };
  // Offset 0 is the header. With bit 63 alone it would be an external data file's.
  if (hostOffset === 0) {
    if (high === 0 && low === 0) return undefined;
    throw new Qcow2Error(`has a bad L2 entry for guest offset ${guestOffset}: 0x${hex(high, low)}`);
  }
  return { kind: 'plain', hostOffset, storedBytes };
}

/**
 * Source: QEMU docs/interop/qcow2.txt, "Compressed Clusters Descriptor": with x = 62 - (cluster_bits - 8), bits 0 to
 * x-1 are the host offset, x to 61 the number of sectors of 512 bytes beyond the one the data begins in.
 */
function compressed(high: number, low: number, header: ImageHeader, fileBytes: number): Stored {
  const offsetBitsHigh = 62 - (Math.log2(header.clusterBytes) - 8) - 32;
  const hostOffset = (high & (2 ** offsetBitsHigh - 1)) * TWO_32 + (low >>> 0);
  const sectors = ((high & ~COMPRESSED_HIGH) >>> 0) >>> offsetBitsHigh;
  const end = hostOffset - (hostOffset % SECTOR_BYTES) + (sectors + 1) * SECTOR_BYTES;
  // QEMU counts the last sector whole even where the file ends in it.
  const storedBytes = Math.min(end, fileBytes) - hostOffset;
  const isTooLong = sectors > header.clusterBytes / SECTOR_BYTES; // compressed data is shorter than its cluster
  if (
    (high & COPIED_HIGH) !== 0 ||
    isTooLong ||
    storedBytes <= 0 ||
    end > fileBytes + SECTOR_BYTES - 1 ||
    hostOffset < header.clusterBytes
  ) {
    throw new Qcow2Error(`has a bad compressed L2 entry: 0x${hex(high, low)}`);
  }
  return { kind: 'compressed', hostOffset, storedBytes };
}

const hex = (high: number, low: number): string =>
  ((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0)).toString(16).padStart(16, '0');
