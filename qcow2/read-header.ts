import {
  EXTENSION_BACKING_FORMAT,
  EXTENSION_END,
  MAX_BACKING_NAME_BYTES,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MIN_CLUSTER_BITS,
  QCOW2_MAGIC,
  SECTOR_BYTES,
} from './format.ts';
import { Qcow2Error } from './qcow2-error.ts';

/**
 * What a reader needs of a qcow2 header. Source: QEMU docs/interop/qcow2.txt, "Header", "Header extensions".
 * All numbers in the file are big-endian.
 */
export interface ImageHeader {
  version: 2 | 3;
  clusterBytes: number;
  virtualSizeBytes: number;
  l1Offset: number;
  l1Entries: number;
  /** Algorithm of compressed clusters; `deflate` is raw, with a window of 4 KiB. */
  compression: 'deflate' | 'zstd';
  /** Name of the file that holds what this one does not, as it stands in the header. */
  backingFile: string | undefined;
  /** From header extension 0xE2792ACA. */
  backingFormat: string | undefined;
}

const V2_HEADER_BYTES = 72;
const V3_HEADER_BYTES = 104;
/** Incompatible feature bit 3. */
const INCOMPATIBLE_COMPRESSION_TYPE = 1n << 3n;
/** Bits 0 dirty, 1 corrupt, 2 external data file, 4 extended L2 entries. */
const REFUSED_FEATURES: Partial<Record<string, string>> = {
  '1': 'was not closed cleanly',
  '2': 'is marked corrupt',
  '4': 'keeps its data in another file',
  '16': 'has extended L2 entries, which are not supported',
};
/** Enough for the header and its extensions: all must be in the first cluster, the largest has 2 MiB, ours 64 KiB. */
export const HEADER_READ_BYTES = 65_536;

/**
 * @param start the first bytes of the file: `HEADER_READ_BYTES`, or all of a shorter file
 * @param fileBytes length of the file: all tables must lie inside
 * @throws Qcow2Error
 */
export function readHeader(start: Buffer, fileBytes: number): ImageHeader {
  need(start.length >= V2_HEADER_BYTES && start.readUInt32BE(0) === QCOW2_MAGIC, 'is not a qcow2 image');
  const version = start.readUInt32BE(4);
  need(version === 2 || version === 3, `has qcow2 version ${version}`);
  const clusterBits = start.readUInt32BE(20);
  need(clusterBits >= MIN_CLUSTER_BITS && clusterBits <= MAX_CLUSTER_BITS, `has clusters of 2^${clusterBits} bytes`);
  const clusterBytes = 2 ** clusterBits;
  const virtualSizeBytes = safe(start.readBigUInt64BE(24), 'virtual size');
  need(virtualSizeBytes % SECTOR_BYTES === 0, `has a virtual size of ${virtualSizeBytes}, not whole sectors`);
  need(start.readUInt32BE(32) === 0, 'is encrypted');

  const l1Entries = start.readUInt32BE(36);
  const l1Offset = safe(start.readBigUInt64BE(40), 'offset of the L1 table');
  const needed = Math.ceil(virtualSizeBytes / (clusterBytes * (clusterBytes / 8)));
  need(l1Entries >= needed, `has ${l1Entries} L1 entries, its size needs ${needed}`);
  need(l1Entries * 8 <= MAX_L1_BYTES, `has ${l1Entries} L1 entries, too many`);
  need(l1Offset % clusterBytes === 0, 'has an L1 table that is not at a cluster');
  need(l1Offset + l1Entries * 8 <= fileBytes, 'has an L1 table past its end');

  const { compression, headerBytes } = version === 3 ? readVersion3(start) : VERSION_2;
  const headerArea = start.subarray(0, Math.min(start.length, clusterBytes));
  const backing = readBackingName(headerArea, headerBytes);
  const backingFormat = readBackingFormat(headerArea, headerBytes, backing?.offset ?? headerArea.length);
  return {
    version,
    clusterBytes,
    virtualSizeBytes,
    l1Offset,
    l1Entries,
    compression,
    backingFile: backing?.name,
    backingFormat,
  };
}

const VERSION_2 = { compression: 'deflate', headerBytes: V2_HEADER_BYTES } as const;

function readVersion3(start: Buffer): { compression: 'deflate' | 'zstd'; headerBytes: number } {
  need(start.length >= V3_HEADER_BYTES, 'is cut off in its header');
  const headerBytes = start.readUInt32BE(100);
  need(
    headerBytes >= V3_HEADER_BYTES && headerBytes % 8 === 0 && headerBytes <= start.length,
    `has a header of ${headerBytes} bytes`,
  );
  const features = start.readBigUInt64BE(72);
  for (let bit = 1n; bit < 1n << 64n; bit <<= 1n) {
    if ((features & bit) === 0n || bit === INCOMPATIBLE_COMPRESSION_TYPE) continue;
    throw new Qcow2Error(REFUSED_FEATURES[bit.toString()] ?? `has the unknown feature 0x${bit.toString(16)}`);
  }
  const type = headerBytes > V3_HEADER_BYTES ? start.readUInt8(104) : 0;
  need(type === 0 || type === 1, `has compression type ${type}`);
  need(
    (type === 1) === ((features & INCOMPATIBLE_COMPRESSION_TYPE) !== 0n),
    'contradicts itself on its compression type',
  );
  return { compression: type === 1 ? 'zstd' : 'deflate', headerBytes };
}

function readBackingName(area: Buffer, headerBytes: number): { name: string; offset: number } | undefined {
  const offset = safe(area.readBigUInt64BE(8), 'offset of the backing file name');
  const length = area.readUInt32BE(16);
  if (offset === 0) return undefined;
  need(length > 0 && length <= MAX_BACKING_NAME_BYTES, `has a backing file name of ${length} bytes`);
  need(offset >= headerBytes && offset + length <= area.length, 'has a backing file name outside its header');
  try {
    const name = new TextDecoder('utf-8', { fatal: true }).decode(area.subarray(offset, offset + length));
    need(!name.includes('\0'), 'has a zero byte in its backing file name');
    return { name, offset };
  } catch (error) {
    if (error instanceof Qcow2Error) throw error;
    throw new Qcow2Error('has a backing file name that is not UTF-8', { cause: error });
  }
}

function readBackingFormat(area: Buffer, headerBytes: number, end: number): string | undefined {
  let backingFormat: string | undefined;
  for (let offset = headerBytes; offset + 8 <= end;) {
    const type = area.readUInt32BE(offset);
    if (type === EXTENSION_END) break;
    const length = area.readUInt32BE(offset + 4);
    need(offset + 8 + length <= end, `has the header extension 0x${type.toString(16)} past its header`);
    if (type === EXTENSION_BACKING_FORMAT) backingFormat = area.toString('latin1', offset + 8, offset + 8 + length);
    offset += 8 + Math.ceil(length / 8) * 8;
  }
  return backingFormat;
}

function safe(value: bigint, what: string): number {
  need(value <= BigInt(Number.MAX_SAFE_INTEGER), `has a ${what} of ${value.toString()}`);
  return Number(value);
}

function need(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new Qcow2Error(otherwise);
}
