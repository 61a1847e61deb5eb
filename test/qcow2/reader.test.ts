import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chainMap } from '../../qcow2/chain-map.ts';
import { decompressCluster } from '../../qcow2/decompress.ts';
import { Qcow2Error } from '../../qcow2/qcow2-error.ts';
import { openQcow2 } from '../../qcow2/reader.ts';
import { inMemory, readChain, readImages } from '../support/image-bytes.ts';
import { guestBytes, qemuImg, qemuIo } from '../support/stored-chain.ts';

const CLUSTER = 65_536;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-reader-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

/** Some of everything: data at both ends, zeroes over data, text that compresses, a hole. */
const WRITES = [
  'write -P 1 0 200k',
  'write -P 2 1M 70k',
  'write -z 64k 64k',
  'write -P 3 5000k 3k',
  'write -P 4 8191k 1k',
];

describe('images made by qemu-img', () => {
  const kinds: [string, string[]][] = [
    ['version 3', []],
    ['version 2', ['-o', 'compat=0.10']],
    ['clusters of 512 bytes', ['-o', 'cluster_size=512']],
    ['clusters of 4 KiB', ['-o', 'cluster_size=4k']],
    ['clusters of 2 MiB', ['-o', 'cluster_size=2M']],
    ['refcounts of one bit', ['-o', 'refcount_bits=1']],
    ['all clusters preallocated', ['-o', 'preallocation=metadata']],
  ];
  it.each(kinds)('are read as QEMU reads them: %s', async (name, options) => {
    const image = at(`plain-${name.replaceAll(' ', '-')}.qcow2`);
    qemuImg('create', '-q', '-f', 'qcow2', ...options, image, '8M');
    qemuIo(image, ...WRITES.filter((write) => !(name === 'version 2' && write.includes('-z'))));
    expect((await readChain(await readImages([image]))).equals(await guestBytes(image, folder))).toBe(true);
  });

  it.each([
    ['deflate', '64k'],
    ['zstd', '64k'],
    ['zstd', '4k'],
    ['deflate', '2M'],
    ['zstd', '256k'],
  ])('are read as QEMU reads them: compressed with %s, clusters of %s', async (compression, clusterSize) => {
    const plain = at(`source-${compression}-${clusterSize}.qcow2`);
    const image = at(`packed-${compression}-${clusterSize}.qcow2`);
    qemuImg('create', '-q', '-f', 'qcow2', plain, '8M');
    qemuIo(plain, ...WRITES);
    const type = compression === 'zstd' ? 'zstd' : 'zlib';
    const options = `compression_type=${type},cluster_size=${clusterSize}`;
    qemuImg('convert', '-c', '-O', 'qcow2', '-o', options, plain, image);
    qemuIo(image, 'write -P 9 300k 64k');
    expect((await readChain(await readImages([image]))).equals(await guestBytes(image, folder))).toBe(true);
  });

  it.each([512, 1024 * 1024 + 512, 8 * 1024 * 1024 - 512])('may have an odd size: %d bytes', async (sizeBytes) => {
    const image = at(`odd-${sizeBytes}.qcow2`);
    qemuImg('create', '-q', '-f', 'qcow2', image, String(sizeBytes));
    qemuIo(image, `write -P 5 ${sizeBytes - 512} 512`);
    const [content] = await readImages([image]);
    const guest = await readChain([content!]);
    expect(guest).toHaveLength(sizeBytes);
    expect(guest.equals(await guestBytes(image, folder))).toBe(true);
  });

  it('tell the name and format of their backing file', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', at('näme of-base.qcow2'), '1M');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', 'näme of-base.qcow2', '-F', 'qcow2', at('named.qcow2'));
    const [content] = await readImages([at('named.qcow2')]);
    const { header } = await openQcow2(inMemory(content!));
    expect(header).toMatchObject({ backingFile: 'näme of-base.qcow2', backingFormat: 'qcow2', clusterBytes: CLUSTER });
  });
});

describe('chains', () => {
  async function chain(layers: { options?: string[]; size?: string; writes: string[] }[]): Promise<string[]> {
    const prefix = `chain-${Math.random().toString(36).slice(2)}`;
    const paths: string[] = [];
    for (const [index, { options = [], size, writes }] of layers.entries()) {
      const path = at(`${prefix}-${index}.qcow2`);
      const backing = index === 0 ? [] : ['-b', paths[index - 1]!, '-F', 'qcow2'];
      qemuImg('create', '-q', '-f', 'qcow2', ...options, ...backing, path, ...(size === undefined ? [] : [size]));
      if (writes.length > 0) qemuIo(path, ...writes);
      paths.push(path);
    }
    return paths;
  }
  const expectSame = async (paths: string[]) =>
    expect((await readChain(await readImages(paths))).equals(await guestBytes(paths.at(-1)!, folder))).toBe(true);

  it('give each part of the disk from the topmost file that has it', async () => {
    await expectSame(
      await chain([
        { size: '8M', writes: ['write -P 1 0 8M'] },
        { writes: ['write -P 2 1M 1M', 'write -P 2 7M 100k'] },
        { writes: [] },
        { writes: ['write -P 3 1500k 64k', 'write -P 3 0 1k'] },
      ]),
    );
  });

  it('hide older data beneath zero clusters, and show newer data above them', async () => {
    const paths = await chain([
      { size: '8M', writes: ['write -P 1 0 8M'] },
      { writes: ['write -z 1M 3M'] },
      { writes: ['write -P 2 2M 64k'] },
    ]);
    await expectSame(paths);
    const guest = await readChain(await readImages(paths));
    expect([guest[0], guest[1024 * 1024], guest[2 * 1024 * 1024], guest[3 * 1024 * 1024]]).toEqual([1, 0, 2, 0]);
  });

  it('may mix cluster sizes, both ways', async () => {
    const writes = (pattern: number) => [`write -P ${pattern} ${pattern * 300}k 1M`, `write -z ${pattern * 700}k 256k`];
    for (const sizes of [
      ['256k', '64k', '64k'],
      ['64k', '256k', '64k'],
      ['4k', '2M', '512'],
    ]) {
      await expectSame(
        await chain(
          sizes.map((size, index) => ({
            options: ['-o', `cluster_size=${size}`],
            ...(index === 0 ? { size: '8M' } : {}),
            writes: writes(index + 1),
          })),
        ),
      );
    }
  });

  it('may grow and shrink: what a smaller disk hid stays hidden', async () => {
    await expectSame(
      await chain([
        { size: '8M', writes: ['write -P 1 0 8M'] },
        { size: '4200k', writes: ['write -P 2 4100k 1k'] },
        { size: '6M', writes: ['write -P 3 5M 10k'] },
      ]),
    );
  });

  it('of a sparse disk of 2 TiB cost no more than what they hold', async () => {
    const paths = await chain([
      { size: '2T', writes: ['write -P 1 0 1M', 'write -P 1 1000G 1M'] },
      { writes: ['write -P 2 2047G 1M', 'write -P 2 1000G 64k'] },
    ]);
    const images = await readImages(paths);
    let tableBytes = 0;
    const counting = images.map((content) => {
      const memory = inMemory(content);
      return {
        ...memory,
        read: (offset: number, lengthBytes: number) => {
          tableBytes += lengthBytes;
          return memory.read(offset, lengthBytes);
        },
      };
    });
    const readers = await Promise.all(counting.map((each) => openQcow2(each)));
    const stretches = (await Array.fromAsync(chainMap(readers))).flat();
    expect(stretches.map(({ file, guestOffset, lengthBytes }) => [file, guestOffset / 2 ** 30, lengthBytes])).toEqual([
      [0, 0, 1024 * 1024],
      [1, 1000, 65_536],
      [0, 1000 + 65_536 / 2 ** 30, 1024 * 1024 - 65_536],
      [1, 2047, 1024 * 1024],
    ]);
    expect(tableBytes).toBeLessThan(2 * (CLUSTER + 32_768 + 3 * CLUSTER)); // header, L1, the L2 tables there are
  });
});

describe('hostile images', () => {
  let good: Buffer;
  let l1Offset: number;
  let l2Offset: number;
  beforeAll(async () => {
    const image = at('good.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', at('named.qcow2'), '-F', 'qcow2', image, '8M');
    qemuIo(image, ...WRITES);
    [good] = (await readImages([image])) as [Buffer];
    l1Offset = Number(good.readBigUInt64BE(40));
    l2Offset = Number(good.readBigUInt64BE(l1Offset) & 0x00fffffffffffe00n);
  });

  const u32 = (offset: number, value: number) => (image: Buffer) => void image.writeUInt32BE(value >>> 0, offset);
  const u64 = (offset: number, value: bigint) => (image: Buffer) => void image.writeBigUInt64BE(value, offset);
  const l1 = (value: bigint) => (image: Buffer) => void image.writeBigUInt64BE(value, l1Offset);
  const l2 = (value: bigint) => (image: Buffer) => void image.writeBigUInt64BE(value, l2Offset);

  it.each<[string, (image: Buffer) => unknown, RegExp]>([
    ['another magic', u32(0, 0x514649fa), /is not a qcow2 image/],
    ['version 1', u32(4, 1), /version 1/],
    ['version 4', u32(4, 4), /version 4/],
    ['clusters of 256 bytes', u32(20, 8), /clusters of 2\^8/],
    ['clusters of 4 MiB', u32(20, 22), /clusters of 2\^22/],
    ['clusters of 2^4 GiB', u32(20, 0xffffffff), /clusters of/],
    ['a size past 2^53', u64(24, 1n << 60n), /virtual size/],
    ['a size of half a sector', u64(24, 8_388_608n - 256n), /whole sectors/],
    ['encryption', u32(32, 1), /encrypted/],
    ['LUKS', u32(32, 2), /encrypted/],
    ['fewer L1 entries than its size needs', u64(24, 1n << 40n), /L1 entries, its size needs/],
    ['four billion L1 entries', u32(36, 0xffffffff), /L1/],
    ['an L1 table past the end', u64(40, 1n << 40n), /L1 table past its end/],
    ['an L1 table at 2^63', u64(40, 1n << 63n), /offset of the L1 table/],
    ['an L1 table between clusters', u64(40, 65_544n), /L1 table that is not at a cluster/],
    ['the dirty bit', u64(72, 1n), /not closed cleanly/],
    ['the corrupt bit', u64(72, 2n), /corrupt/],
    ['an external data file', u64(72, 4n), /in another file/],
    ['extended L2 entries', u64(72, 16n), /extended L2/],
    ['an unknown feature', u64(72, 1n << 63n), /unknown feature 0x8000000000000000/],
    ['zstd without saying so', (image) => image.writeUInt8(1, 104), /contradicts itself/],
    ['zstd announced, zlib named', u64(72, 8n), /contradicts itself/],
    ['an unknown compression', (image) => image.writeUInt8(2, 104), /compression type 2/],
    ['a header of 4 GiB', u32(100, 0xfffffff8), /header of/],
    ['a header of 103 bytes', u32(100, 96), /header of 96/],
    ['a backing name of 1 MiB', u32(16, 1_048_576), /backing file name of/],
    ['a backing name past the cluster', u64(8, 65_530n), /outside its header/],
    ['a backing name in the header itself', u64(8, 24n), /outside its header/],
    ['a backing name at 2^62', u64(8, 1n << 62n), /offset of the backing/],
    ['a backing name with a zero byte', (image) => image.writeUInt8(0, Number(image.readBigUInt64BE(8))), /zero byte/],
    ['a backing name not in UTF-8', (image) => image.writeUInt8(0xff, Number(image.readBigUInt64BE(8))), /UTF-8/],
    ['an extension past the header', u32(116, 0x7fffffff), /header extension/],
    ['an L2 table past the end', l1(0x8000_0000_0000_0000n | (1n << 40n)), /bad L1 entry 0/],
    ['an L2 table between clusters', l1(0x8000_0000_0000_0000n | 0x10200n), /bad L1 entry 0/],
    ['reserved bits in L1', l1(0xc000_0000_0001_0000n), /bad L1 entry 0/],
    ['a cluster past the end', l2(0x8000_0000_0000_0000n | (1n << 45n)), /bad L2 entry for guest offset 0/],
    ['a cluster between clusters', l2(0x8000_0000_0001_0200n), /bad L2 entry/],
    ['a cluster that is the header', l2(0x8000_0000_0000_0000n), /bad L2 entry/],
    ['reserved bits in L2', l2(0x8000_0000_0001_0002n), /bad L2 entry/],
    ['a compressed cluster past the end', l2(0x4000_0000_0000_0000n | (1n << 50n)), /bad compressed L2 entry/],
    ['a compressed cluster longer than the file', l2(0x7fc0_0000_0001_0000n | 0x9ffffn), /bad compressed L2 entry/],
    ['a compressed cluster in the header', l2(0x4000_0000_0000_0010n), /bad compressed L2 entry/],
    ['a compressed cluster used once', l2(0xc000_0000_0001_0000n), /bad compressed L2 entry/],
    ['a compressed cluster of garbage', l2(0x4000_0000_0000_0000n | 0x40000n), /compressed cluster/],
  ])('are refused: %s', async (_, alter, message) => {
    const image = Buffer.from(good);
    alter(image);
    const error: unknown = await readChain([image]).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Qcow2Error);
    expect((error as Error).message).toMatch(message);
  });

  it('are refused when a version 2 image has zero clusters', async () => {
    const image = at('old.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', image, '8M');
    qemuIo(image, 'write -P 1 0 1M');
    const [content] = (await readImages([image])) as [Buffer];
    const table = Number(content.readBigUInt64BE(Number(content.readBigUInt64BE(40))) & 0x00fffffffffffe00n);
    content.writeBigUInt64BE(content.readBigUInt64BE(table) | 1n, table);
    await expect(readChain([content])).rejects.toThrow(/bad L2 entry/);
  });

  it.each([0, 1, 71, 72, 103, 104, 111, 4096, 65_536, 65_537])(
    'are refused when cut off after %d bytes',
    async (length) => {
      await expect(readChain([good.subarray(0, length)])).rejects.toBeInstanceOf(Qcow2Error);
    },
  );

  it('never make the reader leave the file or fail in another way, wherever a byte is altered', async () => {
    let seed = 1;
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return seed % below;
    };
    const places = [0, 0, l1Offset, l2Offset, l2Offset];
    for (let round = 0; round < 400; round += 1) {
      const image = Buffer.from(good);
      for (let n = 0; n <= random(3); n += 1) {
        image[places[random(places.length)]! + random(160)] = random(256);
      }
      image.writeUInt16BE(0, 24); // a disk of exabytes may be valid, and slow only for this test's buffer
      image.writeUInt16BE(0, 26);
      image.writeUInt8(0, 28);
      const outcome: unknown = await readChain([image]).catch((thrown: unknown) => thrown);
      if (outcome instanceof Error && !(outcome instanceof Qcow2Error)) throw outcome;
    }
  });
});

describe('decompressCluster', () => {
  const cases: [string, Buffer][] = [
    ['nothing', Buffer.alloc(0)],
    ['garbage', Buffer.alloc(512, 0xa5)],
    ['a zstd magic alone', Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
    ['a zstd header alone', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0])],
    ['a zstd block of 2 MiB that is not there', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0xff, 0xff, 0xff])],
    ['a zstd frame of few bytes', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 7])],
    ['a repeated byte, four times too long', Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 3, 0, 0x20, 7])],
  ];
  it.each(cases)('refuses %s', (_, stored) => {
    expect(() => decompressCluster(stored, 'zstd', CLUSTER)).toThrow(Qcow2Error);
    expect(() => decompressCluster(stored, 'deflate', CLUSTER)).toThrow(Qcow2Error);
  });
});
