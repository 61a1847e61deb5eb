import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFile, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ChainFile, CopierErrorCode } from '../../copier/contract.ts';
import { CopierError } from '../../copier/contract.ts';
import { restoreDisk } from '../../copier/restore-disk.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import { filePathOf } from '../../repository/source.ts';
import { encryptChain, newKeyPair } from '../support/encrypted-chain.ts';
import {
  chainFolder,
  describeStored,
  guestBytes,
  makeChain,
  occupiedBytes,
  qemuImg,
  sizeOf,
  type Layer,
} from '../support/stored-chain.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

const hasCode = (code: CopierErrorCode, file: string) => (error: unknown) =>
  error instanceof CopierError && error.code === code && error.file === file && error.message.includes(file);

/** Restores in both formats and compares every byte a guest would read. */
async function expectRestored(
  folder: Awaited<ReturnType<typeof chainFolder>>,
  chain: ChainFile[],
  top: string,
): Promise<void> {
  const expected = await guestBytes(top, folder.path);
  for (const format of ['qcow2', 'raw'] as const) {
    const path = join(folder.path, `restored.${format}`);
    const result = await restoreDisk(pool, {
      chain,
      destination: { path, format },
      virtualSizeBytes: sizeOf(top),
      signal,
    });
    expect(result.verifiedBytes).toBe(chain.reduce((sum, file) => sum + file.storedBytes, 0));
    const restored = format === 'raw' ? await readFile(path) : await guestBytes(path, folder.path);
    expect(restored.length).toBe(expected.length);
    expect(restored.equals(expected)).toBe(true);
    if (format === 'qcow2') {
      qemuImg('check', '-q', path);
      qemuImg('compare', '-q', path, top);
      const info = JSON.parse(qemuImg('info', '--output=json', path)) as Record<string, unknown>;
      expect(info).toMatchObject({ 'cluster-size': 65_536, 'virtual-size': expected.length });
      expect(info).not.toHaveProperty('backing-filename');
    }
    await rm(path);
  }
}

const MIXED: Layer[] = [
  { size: '64M', writes: ['write -P 1 0 8M', 'write -P 2 20M 3M', 'write -P 3 63M 1M'] },
  { writes: ['write -P 4 1M 100k', 'write -z 2M 1M', 'write -P 5 40M 1M'] },
  { writes: ['write -P 6 2100k 64k', 'write -P 7 7M 3M', 'write -z 21M 64k'] },
];

describe('restoreDisk', () => {
  it('gives each byte of a chain, as qcow2 and as raw', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED);
    await expectRestored(folder, chain, top);
  });

  it('decompresses, with clusters of several sizes in one chain', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [
      { ...MIXED[0]!, options: 'cluster_size=256k', compress: true },
      { ...MIXED[1]! },
      { ...MIXED[2]!, options: 'cluster_size=64k' },
    ]);
    await expectRestored(folder, chain, top);
  });

  it.each([
    [[1_000_003], 'odd segments'],
    [[65_536], 'segments of one cluster'],
    [[4096, 512, 1, 100_000], 'segments of all sizes'],
    [[64 * MIB], 'one segment'],
  ])('reads files that are cut into other segments: %j', async (cuts) => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [{ ...MIXED[0]!, compress: true }, ...MIXED.slice(1)], cuts);
    await expectRestored(folder, chain, top);
  });

  it.each([[[64]], [[1]], [[1, 3, 17]]])('reads encrypted files, in segments of %j chunks', async (cuts) => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [{ ...MIXED[0]!, compress: true }, ...MIXED.slice(1)]);
    const { recipient } = await newKeyPair();
    await expectRestored(folder, await encryptChain(chain, recipient, cuts), top);
  });

  it('takes encrypted and plain files in one chain', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED);
    const encrypted = await encryptChain(chain, (await newKeyPair()).recipient);
    await expectRestored(folder, [chain[0]!, encrypted[1]!, chain[2]!], top);
  });

  it('opens no file with the key of another one', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED.slice(0, 2));
    const [full, increment] = await encryptChain(chain, (await newKeyPair()).recipient);
    const { payloadKey } = full!.encryption!;
    const wrong = { ...increment!, encryption: { ...increment!.encryption!, payloadKey } };
    const path = join(folder.path, 'restored.raw');
    const options = { destination: { path, format: 'raw' as const }, virtualSizeBytes: sizeOf(top), signal };
    await expect(restoreDisk(pool, { chain: [full!, wrong], ...options })).rejects.toSatisfy(
      hasCode('integrity', wrong.source.blobKey),
    );
    expect(await readdir(folder.path)).toEqual(['disk-0']);
  });

  it('compares the hashes of encrypted files without their key', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED.slice(0, 1));
    const [encrypted] = await encryptChain(chain, (await newKeyPair()).recipient);
    const { encryption: _, ...stored } = encrypted!;
    await verifyFile(pool, stored, { signal });
    await truncate(filePathOf(stored.source), stored.storedBytes - 1);
    await expect(verifyFile(pool, stored, { signal })).rejects.toSatisfy(hasCode('integrity', stored.source.blobKey));
  });

  it.each(['512', '1049088', '68157952'])('keeps an odd size: %s bytes', async (size) => {
    await using folder = await chainFolder();
    const last = Number(size) - 512;
    const { chain, top } = await makeChain(folder, [
      { size, writes: [`write -P 1 ${last} 512`] },
      { writes: size === '512' ? [] : [`write -P 2 ${last} 512`, 'write -P 3 0 512'] },
    ]);
    await expectRestored(folder, chain, top);
  });

  it.each(['512', '4k', '2M'])('takes clusters of %s', async (cluster) => {
    await using folder = await chainFolder();
    const options = `cluster_size=${cluster}`;
    const { chain, top } = await makeChain(folder, [
      { size: '16M', options, writes: ['write -P 1 1234k 3k', 'write -P 2 5M 700k'] },
      { options: 'cluster_size=64k', writes: ['write -P 3 1235k 1k'] },
      { options, writes: ['write -P 4 5M 512', 'write -P 5 6M 100k'] },
    ]);
    await expectRestored(folder, chain, top);
  });

  it('restores an empty disk, and a sparse one of 2 TiB with little room', async () => {
    await using folder = await chainFolder();
    const empty = await makeChain(folder, [{ size: '10M', writes: [] }, { writes: [] }]);
    await expectRestored(folder, empty.chain, empty.top);

    await using large = await chainFolder();
    const { chain, top } = await makeChain(large, [
      { size: '2T', writes: ['write -P 1 0 1M', 'write -P 2 1999G 1M'] },
      { writes: ['write -P 3 1000G 64k'] },
    ]);
    const path = join(large.path, 'restored.qcow2');
    await restoreDisk(pool, { chain, destination: { path, format: 'qcow2' }, virtualSizeBytes: 2 ** 41, signal });
    qemuImg('check', '-q', path);
    qemuImg('compare', '-q', path, top);
    expect(await occupiedBytes(path)).toBeLessThan(4 * MIB);
  });

  it('leaves holes where the guest has no data', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const path = join(folder.path, 'restored.raw');
    await restoreDisk(pool, { chain, destination: { path, format: 'raw' }, virtualSizeBytes: 64 * MIB, signal });
    expect(await occupiedBytes(path)).toBeLessThan(18 * MIB);
  });

  it('tells how far it is', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const seen: { verifiedBytes: number; totalBytes: number }[] = [];
    const path = join(folder.path, 'restored.raw');
    const destination = { path, format: 'raw' } as const;
    await restoreDisk(pool, {
      chain,
      destination,
      virtualSizeBytes: 64 * MIB,
      signal,
      onProgress: (p) => void seen.push(p),
    });
    const totalBytes = chain.reduce((sum, file) => sum + file.storedBytes, 0);
    expect(seen.at(-1)).toEqual({ verifiedBytes: totalBytes, totalBytes });
    expect(seen.map((each) => each.verifiedBytes)).toEqual(
      seen.map((each) => each.verifiedBytes).toSorted((a, b) => a - b),
    );
  });
});

describe('restoreDisk refuses, and leaves no destination', () => {
  /** Alters a chain that is described already, then expects the restore to name the file. */
  async function expectRefused(
    alter: (made: { chain: ChainFile[]; paths: string[] }) => Promise<void>,
    code: CopierErrorCode,
    index: number,
    message: RegExp,
  ): Promise<void> {
    await using folder = await chainFolder();
    const made = await makeChain(folder, MIXED);
    await alter(made);
    const file = made.chain[index]!.source.blobKey;
    for (const format of ['qcow2', 'raw'] as const) {
      const path = join(folder.path, 'restored');
      const destination = { path, format };
      const restore = restoreDisk(pool, { chain: made.chain, destination, virtualSizeBytes: 64 * MIB, signal });
      const error: unknown = await restore.catch((thrown: unknown) => thrown);
      expect(error).toSatisfy(hasCode(code, file));
      expect((error as Error).message).toMatch(message);
      expect(await readdir(folder.path)).toEqual(['disk-0']);
    }
  }

  async function flip(path: string, offset: number): Promise<void> {
    await using file = await open(path, 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, offset);
    await file.write(Buffer.from([buffer[0]! ^ 1]), 0, 1, offset);
  }

  const l1OffsetOf = async (path: string) => Number((await readFile(path)).readBigUInt64BE(40));

  it('an altered byte in the data', () =>
    expectRefused(({ paths }) => flip(paths[1]!, 0x60000), 'integrity', 1, /bytes 0 to \d+ were altered/));

  it('an altered byte in the data of a later segment', () =>
    expectRefused(({ paths }) => flip(paths[0]!, 9 * MIB), 'integrity', 0, /bytes 8388608 to 12582912 were altered/));

  it('an altered byte in data that newer data hides', () =>
    expectRefused(({ paths }) => flip(paths[0]!, 0x50000 + 2 * MIB), 'integrity', 0, /were altered/));

  it('an altered byte in a table', () =>
    expectRefused(
      async ({ paths }) => flip(paths[2]!, (await l1OffsetOf(paths[2]!)) + 6),
      'integrity',
      2,
      /were altered/,
    ));

  it('an altered byte in the header', () =>
    expectRefused(({ paths }) => flip(paths[0]!, 27), 'integrity', 0, /were altered/));

  it('an altered sum', () =>
    expectRefused(
      ({ chain }) => {
        chain[1]!.segments[0]!.sha256 = 'f'.repeat(64);
        return Promise.resolve();
      },
      'integrity',
      1,
      /the manifest's sums say ffff/,
    ));

  it('a file that was cut off', () =>
    expectRefused(
      ({ paths, chain }) => truncate(paths[1]!, chain[1]!.storedBytes - 512),
      'integrity',
      1,
      /too short: \d+ bytes, the manifest says/,
    ));

  it('a file that grew', () =>
    expectRefused(({ paths, chain }) => truncate(paths[1]!, chain[1]!.storedBytes + 1), 'integrity', 1, /too long/));

  it('an empty file', () => expectRefused(({ paths }) => truncate(paths[2]!, 0), 'integrity', 2, /too short: 0 bytes/));

  it('a missing file', () => expectRefused(({ paths }) => rm(paths[0]!), 'file-missing', 0, /the file is missing/));

  it('a file that is not qcow2', () =>
    expectRefused(
      async ({ paths, chain }) => {
        await writeFile(paths[0]!, randomBytes(200_000));
        chain[0] = await describeStored(paths[0]!, chain[0]!.source.blobKey);
      },
      'integrity',
      0,
      /is not a qcow2 image/,
    ));

  it('files in another order than they name each other', () =>
    expectRefused(
      ({ chain }) => {
        chain.splice(1, 1);
        return Promise.resolve();
      },
      'integrity',
      1,
      /names the backing file incr-1\.qcow2, the manifest full-0\.qcow2/,
    ));

  it('a chain whose base is another increment', () =>
    expectRefused(
      ({ chain }) => {
        chain.shift();
        return Promise.resolve();
      },
      'integrity',
      0,
      /names the backing file full-0\.qcow2, the manifest none/,
    ));

  it('a disk of another size', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const destination = { path: join(folder.path, 'restored'), format: 'raw' } as const;
    await expect(restoreDisk(pool, { chain, destination, virtualSizeBytes: 65 * MIB, signal })).rejects.toThrow(
      'vm/disk-0/incr-2.qcow2: its disk has 67108864 bytes, the manifest says 68157440',
    );
    expect(await readdir(folder.path)).toEqual(['disk-0']);
  });
});

describe('restoreDisk and its destination', () => {
  it('does not touch a file that exists', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const path = join(folder.path, 'precious');
    await writeFile(path, 'precious');
    const destination = { path, format: 'raw' } as const;
    const restore = restoreDisk(pool, { chain, destination, virtualSizeBytes: 64 * MIB, signal });
    await expect(restore).rejects.toSatisfy(hasCode('destination-exists', path));
    expect(await readFile(path, 'utf8')).toBe('precious');
  });

  it('says before the first byte when the room is not there, and cleans up when it goes meanwhile', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const mount = join(folder.path, 'small');
    execFileSync('mkdir', [mount]);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8M', 'tmpfs', mount], { stdio: 'pipe' });
    } catch {
      return; // needs root
    }
    try {
      const path = join(mount, 'restored');
      for (const format of ['qcow2', 'raw'] as const) {
        const destination = { path, format };
        const restore = restoreDisk(pool, { chain, destination, virtualSizeBytes: 64 * MIB, signal });
        const error: unknown = await restore.catch((thrown: unknown) => thrown);
        expect(error).toSatisfy(hasCode('destination-full', path));
        expect((error as Error).message).toMatch(/needs \d+ bytes, \d+ are free/);
      }
      execFileSync('mount', ['-o', 'remount,size=70M', mount]);
      await using larger = await chainFolder();
      const { chain: filling } = await makeChain(larger, [{ size: '64M', writes: ['write -P 1 0 64M'] }]);
      let isTaken = false;
      const restore = restoreDisk(pool, {
        chain: filling,
        destination: { path, format: 'raw' },
        virtualSizeBytes: 64 * MIB,
        signal,
        onProgress: () => {
          if (isTaken) return;
          isTaken = true; // another writer takes the room as soon as the restore has begun
          execFileSync('sh', ['-c', `head -c 70M /dev/zero > ${mount}/other 2> /dev/null || true`]);
        },
      });
      await expect(restore).rejects.toSatisfy(hasCode('destination-full', path));
      expect(await readdir(mount)).toEqual(['other']);
    } finally {
      execFileSync('umount', ['-l', mount]);
    }
  });

  it('stops within a second when it is aborted, and leaves nothing', async () => {
    await using folder = await chainFolder();
    const random = folder.file('random');
    await writeFile(random, randomBytes(64 * MIB));
    const { chain } = await makeChain(folder, [
      { size: '512M', writes: Array.from({ length: 8 }, (_, n) => `write -s ${random} ${n * 64}M 64M`) },
    ]);
    const aborting = new AbortController();
    let abortedAt = 0;
    const restore = restoreDisk(pool, {
      chain,
      destination: { path: join(folder.path, 'restored'), format: 'qcow2' },
      virtualSizeBytes: 512 * MIB,
      signal: aborting.signal,
      onProgress: ({ verifiedBytes }) => {
        if (abortedAt > 0 || verifiedBytes < 40 * MIB) return;
        abortedAt = performance.now();
        aborting.abort(new Error('the operator has cancelled'));
      },
    });
    await expect(restore).rejects.toThrow('the operator has cancelled');
    expect(performance.now() - abortedAt).toBeLessThan(1000);
    expect(await readdir(folder.path)).toEqual(['disk-0']);
    const late = restoreDisk(pool, {
      chain,
      destination: { path: join(folder.path, 'restored'), format: 'qcow2' },
      virtualSizeBytes: 512 * MIB,
      signal: aborting.signal,
    });
    await expect(late).rejects.toThrow('the operator has cancelled');
  });

  it('restores several disks at once in one pool', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED);
    const expected = await guestBytes(top, folder.path);
    const paths = [0, 1, 2, 3].map((n) => join(folder.path, `restored-${n}`));
    await Promise.all(
      paths.map((path) =>
        restoreDisk(pool, { chain, destination: { path, format: 'raw' }, virtualSizeBytes: 64 * MIB, signal }),
      ),
    );
    for (const path of paths) expect((await readFile(path)).equals(expected)).toBe(true);
  });
});

describe('verifyFile', () => {
  it('reads a file whole and finds one altered bit, a changed length or a missing file', async () => {
    await using folder = await chainFolder();
    const { chain, paths } = await makeChain(folder, MIXED, [3 * MIB, 5 * MIB]);
    const [file] = chain as [ChainFile];
    const { blobKey } = file.source;
    let verified = 0;
    await verifyFile(pool, file, { signal, onProgress: (bytes) => (verified = bytes) });
    expect(verified).toBe(file.storedBytes);

    const copy = folder.file('copy');
    await copyFile(paths[0]!, copy);
    const other = { ...file, source: { ...file.source, path: copy } };
    await using handle = await open(copy, 'r+');
    await handle.write(Buffer.from([0xff]), 0, 1, file.storedBytes - 1);
    await expect(verifyFile(pool, other, { signal })).rejects.toSatisfy(hasCode('integrity', blobKey));
    await truncate(copy, file.storedBytes - 1);
    await expect(verifyFile(pool, other, { signal })).rejects.toSatisfy(hasCode('integrity', blobKey));
    await rm(copy);
    await expect(verifyFile(pool, other, { signal })).rejects.toSatisfy(hasCode('file-missing', blobKey));
    await expect(verifyFile(pool, file, { signal: AbortSignal.abort(new Error('cancelled')) })).rejects.toThrow(
      'cancelled',
    );
  });
});
