import { encodeHeader } from '../../qcow2/header.ts';
import { encodeTables, type MappedCluster } from '../../qcow2/tables.ts';
import { clusterBytesOf, type Qcow2Layout } from '../../qcow2/format.ts';

/** Builds an image whose data area ends at `dataEnd`. What lies there is `fill`. */
export function buildImage(
  layout: Qcow2Layout,
  clusters: MappedCluster[],
  dataEnd: number,
  data?: (image: Buffer) => void,
): Buffer {
  const clusterBytes = clusterBytesOf(layout);
  const tailOffset = Math.ceil(dataEnd / clusterBytes) * clusterBytes;
  const tables = encodeTables(layout, clusters, tailOffset);
  const parts: Buffer[] = [];
  let part = tables.next();
  for (; part.done !== true; part = tables.next()) parts.push(Buffer.from(part.value));
  const image = Buffer.concat([Buffer.alloc(tailOffset), ...parts]);
  if (image.length !== part.value.endOffset) throw new Error(`${image.length} bytes, said ${part.value.endOffset}`);
  const compression = clusters.some(({ kind }) => kind === 'compressed') ? 'zstd' : 'none';
  encodeHeader({ ...layout, compression, tables: part.value }).copy(image);
  data?.(image);
  return image;
}

/** Reads an image's tables back by the specification's words, and compares references with refcounts. */
export function readImage(image: Buffer): { clusters: Map<number, string>; wrongRefcounts: string[] } {
  const u64 = (at: number) => Number(image.readBigUInt64BE(at));
  const clusterBits = image.readUInt32BE(20);
  const clusterBytes = 2 ** clusterBits;
  const references = new Map<number, number>();
  const refer = (offset: number) =>
    references.set(offset / clusterBytes, (references.get(offset / clusterBytes) ?? 0) + 1);
  const clusters = new Map<number, string>();
  refer(0);
  const l1Offset = u64(40);
  const l1Entries = image.readUInt32BE(36);
  for (let at = 0; at < l1Entries * 8; at += clusterBytes) refer(l1Offset + at);
  for (let i = 0; i < l1Entries; i++) {
    const l1Entry = image.readBigUInt64BE(l1Offset + i * 8);
    if (l1Entry === 0n) continue;
    if (l1Entry >> 63n !== 1n) throw new Error('an L1 entry lacks bit 63');
    const table = Number(l1Entry & 0x00fffffffffffe00n);
    refer(table);
    for (let j = 0; j < clusterBytes / 8; j++) {
      const entry = image.readBigUInt64BE(table + j * 8);
      const guest = i * (clusterBytes / 8) + j;
      if (entry === 0n) continue;
      if (entry === 1n) clusters.set(guest, 'zero');
      else if ((entry & (1n << 62n)) !== 0n) {
        const x = 62n - (BigInt(clusterBits) - 8n);
        const offset = Number(entry & ((1n << x) - 1n));
        const sectors = Number((entry & ((1n << 62n) - 1n)) >> x);
        const end = Math.floor(offset / 512) * 512 + (sectors + 1) * 512;
        for (let c = Math.floor(offset / clusterBytes); c <= Math.floor((end - 1) / clusterBytes); c++)
          refer(c * clusterBytes);
        clusters.set(guest, `compressed ${offset} within ${end}`);
      } else {
        if (entry >> 63n !== 1n) throw new Error('a plain cluster lacks bit 63');
        const offset = Number(entry & 0x00fffffffffffe00n);
        refer(offset);
        clusters.set(guest, `plain ${offset}`);
      }
    }
  }
  const tableOffset = u64(48);
  const tableBytes = image.readUInt32BE(56) * clusterBytes;
  for (let at = 0; at < tableBytes; at += clusterBytes) refer(tableOffset + at);
  const blocks: number[] = [];
  for (let at = 0; at < tableBytes; at += 8) blocks.push(u64(tableOffset + at));
  for (const block of blocks) if (block !== 0) refer(block);
  const wrongRefcounts: string[] = [];
  for (let cluster = 0; cluster < image.length / clusterBytes; cluster++) {
    const block = blocks[Math.floor(cluster / (clusterBytes / 2))] ?? 0;
    const count = block === 0 ? 0 : image.readUInt16BE(block + (cluster % (clusterBytes / 2)) * 2);
    const wanted = references.get(cluster) ?? 0;
    if (count !== wanted) wrongRefcounts.push(`cluster ${cluster}: ${count}, ${wanted} references`);
  }
  return { clusters, wrongRefcounts };
}
