import {
  checkLayout,
  clusterBytesOf,
  COMPRESSED_HIGH,
  COPIED_HIGH,
  ENTRY_BYTES,
  guestClustersOf,
  l1EntriesOf,
  REFCOUNT_BYTES,
  SECTOR_BYTES,
  writeEntry,
  ZERO_ENTRY,
  type Qcow2Layout,
} from './format.ts';

/**
 * What the image says of guest clusters; those not mentioned are unallocated. `zero` covers `count` clusters in a row.
 * A plain cluster lies whole at `offset`, a multiple of the cluster size; a compressed one has `storedBytes` at any byte.
 */
export type MappedCluster =
  | { kind: 'plain'; guest: number; offset: number }
  | { kind: 'compressed'; guest: number; offset: number; storedBytes: number }
  | { kind: 'zero'; guest: number; count: number };

/** What the header must say of the tables. */
export interface TableOffsets {
  l1Offset: number;
  l1Entries: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  /** Length of the image, a multiple of the cluster size. */
  endOffset: number;
}

/**
 * Writes the tables of an image after its data, cluster by cluster: L2 tables, L1 table, refcount blocks, refcount table.
 * Memory: two bytes per cluster of the file and eight per L1 entry, whatever the size of the disk.
 * @param clusters in ascending guest order
 * @param tailOffset where the tables start, a multiple of the cluster size; all data lies below
 * @yields clusters of the file in order from `tailOffset` on; each is valid only until the next one is asked for
 * @throws RangeError on clusters out of order or outside of disk or file
 */
export function* encodeTables(
  layout: Qcow2Layout,
  clusters: Iterable<MappedCluster>,
  tailOffset: number,
): Generator<Buffer, TableOffsets> {
  checkLayout(layout);
  const clusterBytes = clusterBytesOf(layout);
  if (tailOffset % clusterBytes !== 0 || tailOffset < clusterBytes) throw new RangeError(`tables at ${tailOffset}`);
  const entriesPerTable = clusterBytes / ENTRY_BYTES;
  const guestClusters = guestClustersOf(layout);
  const refcounts = new Refcounts(layout.clusterBits);
  refcounts.addCluster(0);

  const l1Entries = l1EntriesOf(layout);
  const l1 = Buffer.alloc(Math.ceil((l1Entries * ENTRY_BYTES) / clusterBytes) * clusterBytes);
  const l2 = Buffer.alloc(clusterBytes);
  let at = tailOffset;
  let openTable = -1;
  let nextGuest = 0;
  for (const cluster of clusters) {
    const count = cluster.kind === 'zero' ? cluster.count : 1;
    if (cluster.guest < nextGuest || count < 1 || cluster.guest + count > guestClusters) {
      throw new RangeError(`guest cluster ${cluster.guest} out of order or outside of the disk`);
    }
    nextGuest = cluster.guest + count;
    for (let guest = cluster.guest; guest < nextGuest;) {
      const table = Math.floor(guest / entriesPerTable);
      if (table !== openTable) {
        if (openTable >= 0) yield l2;
        l2.fill(0);
        refcounts.addCluster(at);
        writeEntry(l1, table * ENTRY_BYTES, at, COPIED_HIGH);
        at += clusterBytes;
        openTable = table;
      }
      const end = Math.min(nextGuest, (table + 1) * entriesPerTable);
      for (; guest < end; guest++) {
        encodeL2Entry(layout, l2, (guest % entriesPerTable) * ENTRY_BYTES, cluster, tailOffset);
      }
    }
    if (cluster.kind === 'plain') refcounts.addCluster(cluster.offset);
    else if (cluster.kind === 'compressed') refcounts.addStretch(cluster.offset, cluster.storedBytes);
  }
  if (openTable >= 0) yield l2;

  const l1Offset = at;
  for (let part = 0; part < l1.length; part += clusterBytes) {
    refcounts.addCluster(at);
    yield l1.subarray(part, part + clusterBytes);
    at += clusterBytes;
  }
  const tables = yield* refcounts.encode(at);
  return { l1Offset, l1Entries, ...tables };
}

function encodeL2Entry(
  { clusterBits }: Qcow2Layout,
  table: Buffer,
  at: number,
  cluster: MappedCluster,
  dataEnd: number,
): void {
  if (cluster.kind === 'zero') {
    table[at + 7] = ZERO_ENTRY;
    return;
  }
  const { offset } = cluster;
  const clusterBytes = 2 ** clusterBits;
  const storedBytes = cluster.kind === 'plain' ? clusterBytes : cluster.storedBytes;
  const isMisplaced = cluster.kind === 'plain' && offset % clusterBytes !== 0;
  if (
    isMisplaced ||
    offset < clusterBytes ||
    storedBytes < 1 ||
    storedBytes > clusterBytes ||
    offset + storedBytes > dataEnd
  ) {
    throw new RangeError(`guest cluster ${cluster.guest}: ${storedBytes} bytes at ${offset} of the file`);
  }
  if (cluster.kind === 'plain') {
    writeEntry(table, at, offset, COPIED_HIGH);
    return;
  }
  // Bits 0 to x-1: offset. Bits x to 61: sectors it touches besides the first. x = 62 - (clusterBits - 8), at least 49.
  const offsetHighBits = 62 - (clusterBits - 8) - 32;
  const moreSectors = Math.floor((offset + storedBytes - 1) / SECTOR_BYTES) - Math.floor(offset / SECTOR_BYTES);
  writeEntry(table, at, offset, (COMPRESSED_HIGH | (moreSectors << offsetHighBits)) >>> 0);
}

/** How often each cluster of the file is referred to. */
class Refcounts {
  readonly #clusterBits: number;
  #counts = new Uint16Array(1024);
  #used = 0;

  constructor(clusterBits: number) {
    this.#clusterBits = clusterBits;
  }

  addCluster(offset: number): void {
    this.#add(offset / 2 ** this.#clusterBits);
  }

  /** A compressed cluster refers to every cluster it touches. */
  addStretch(offset: number, lengthBytes: number): void {
    const clusterBytes = 2 ** this.#clusterBits;
    const last = Math.floor((offset + lengthBytes - 1) / clusterBytes);
    for (let index = Math.floor(offset / clusterBytes); index <= last; index++) this.#add(index);
  }

  #add(index: number): void {
    if (index >= this.#counts.length) {
      const larger = new Uint16Array(Math.max(index + 1, this.#counts.length * 2));
      larger.set(this.#counts);
      this.#counts = larger;
    }
    const count = (this.#counts[index] ?? 0) + 1;
    if (count > 0xffff) throw new RangeError(`cluster ${index} of the file is referred to too often`);
    this.#counts[index] = count;
    this.#used = Math.max(this.#used, index + 1);
  }

  /** Refcount blocks, then their table, which count themselves too. */
  *encode(offset: number): Generator<Buffer, Omit<TableOffsets, 'l1Offset' | 'l1Entries'>> {
    const clusterBytes = 2 ** this.#clusterBits;
    const perBlock = clusterBytes / REFCOUNT_BYTES;
    const perTable = clusterBytes / ENTRY_BYTES;
    const before = offset / clusterBytes;
    let blocks = 1;
    let tableClusters = 1;
    for (;;) {
      const neededBlocks = Math.ceil((before + blocks + tableClusters) / perBlock);
      const neededClusters = Math.ceil(neededBlocks / perTable);
      if (neededBlocks <= blocks && neededClusters <= tableClusters) break;
      blocks = Math.max(blocks, neededBlocks);
      tableClusters = Math.max(tableClusters, neededClusters);
    }
    const refcountTableOffset = offset + blocks * clusterBytes;
    const endOffset = refcountTableOffset + tableClusters * clusterBytes;
    for (let at = offset; at < endOffset; at += clusterBytes) this.addCluster(at);

    const cluster = Buffer.alloc(clusterBytes);
    for (let block = 0; block < blocks; block++) {
      cluster.fill(0);
      const end = Math.min(this.#used, (block + 1) * perBlock);
      for (let index = block * perBlock, at = 0; index < end; index++, at += REFCOUNT_BYTES) {
        cluster.writeUInt16BE(this.#counts[index] ?? 0, at);
      }
      yield cluster;
    }
    for (let first = 0; first < tableClusters * perTable; first += perTable) {
      cluster.fill(0);
      for (let i = 0; i < perTable && first + i < blocks; i++) {
        writeEntry(cluster, i * ENTRY_BYTES, offset + (first + i) * clusterBytes);
      }
      yield cluster;
    }
    return { refcountTableOffset, refcountTableClusters: tableClusters, endOffset };
  }
}
