import {
  clusterBytesOf,
  COMPRESSION_ZLIB,
  COMPRESSION_ZSTD,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_END,
  EXTENSION_FEATURE_NAMES,
  HEADER_BYTES,
  INCOMPATIBLE_COMPRESSION_TYPE,
  MAX_BACKING_NAME_BYTES,
  QCOW2_MAGIC,
  QCOW2_VERSION,
  REFCOUNT_ORDER,
  writeEntry,
  type Qcow2Layout,
} from './format.ts';
import type { TableOffsets } from './tables.ts';

export interface Qcow2Header extends Qcow2Layout {
  /** How compressed clusters are compressed. `none` and zlib look the same: an image without any need not say zstd. */
  compression: 'zstd' | 'none';
  /** Name as it stands in the header: relative to the image's folder unless absolute. */
  backing?: { fileName: string; format: 'qcow2' | 'raw' } | undefined;
  tables: TableOffsets;
}

/**
 * The first cluster of an image: header, extensions (backing format, names of features, end), backing file name, zeroes.
 * Source: QEMU docs/interop/qcow2.txt, "Header", "Header extensions"
 * @throws RangeError when the backing file's name is too long for the format or the cluster
 */
export function encodeHeader(header: Qcow2Header): Buffer {
  const cluster = Buffer.alloc(clusterBytesOf(header));
  const isZstd = header.compression === 'zstd';
  cluster.writeUInt32BE(QCOW2_MAGIC, 0);
  cluster.writeUInt32BE(QCOW2_VERSION, 4);
  cluster.writeUInt32BE(header.clusterBits, 20);
  writeEntry(cluster, 24, header.virtualSizeBytes);
  // 32: encryption, none
  cluster.writeUInt32BE(header.tables.l1Entries, 36);
  writeEntry(cluster, 40, header.tables.l1Offset);
  writeEntry(cluster, 48, header.tables.refcountTableOffset);
  cluster.writeUInt32BE(header.tables.refcountTableClusters, 56);
  // 60: no snapshots, 64: nor their table
  writeEntry(cluster, 72, isZstd ? INCOMPATIBLE_COMPRESSION_TYPE : 0);
  // 80: compatible, 88: autoclear features, none
  cluster.writeUInt32BE(REFCOUNT_ORDER, 96);
  cluster.writeUInt32BE(HEADER_BYTES, 100);
  cluster.writeUInt8(isZstd ? COMPRESSION_ZSTD : COMPRESSION_ZLIB, 104);

  const extensions: Buffer[] = [];
  if (header.backing) extensions.push(extension(EXTENSION_BACKING_FORMAT, Buffer.from(header.backing.format, 'ascii')));
  if (isZstd) extensions.push(extension(EXTENSION_FEATURE_NAMES, featureName(0, 3, 'compression type')));
  extensions.push(extension(EXTENSION_END, Buffer.alloc(0)));
  const rest = Buffer.concat(extensions);
  const name = Buffer.from(header.backing?.fileName ?? '', 'utf8');
  const nameOffset = HEADER_BYTES + rest.length;
  if (name.length > MAX_BACKING_NAME_BYTES || nameOffset + name.length > cluster.length) {
    throw new RangeError(`qcow2 backing file name of ${name.length} bytes is too long`);
  }
  rest.copy(cluster, HEADER_BYTES);
  if (header.backing) {
    name.copy(cluster, nameOffset);
    writeEntry(cluster, 8, nameOffset);
    cluster.writeUInt32BE(name.length, 16);
  }
  return cluster;
}

/** type u32, length u32, data padded with zeroes to a multiple of 8. */
function extension(type: number, data: Buffer): Buffer {
  const bytes = Buffer.alloc(8 + Math.ceil(data.length / 8) * 8);
  bytes.writeUInt32BE(type, 0);
  bytes.writeUInt32BE(data.length, 4);
  data.copy(bytes, 8);
  return bytes;
}

/** One entry of the table by which an older QEMU can name the feature it lacks: kind u8, bit u8, name of 46 bytes. */
function featureName(kind: number, bit: number, name: string): Buffer {
  const entry = Buffer.alloc(48);
  entry.writeUInt8(kind, 0);
  entry.writeUInt8(bit, 1);
  entry.write(name, 2, 46, 'ascii');
  return entry;
}
