import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ChainFile, CopierErrorCode } from '../../copier/contract.ts';
import { restoreDisk } from '../../copier/restore-disk.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { chainFolder, describeStored, makeChain } from '../support/stored-chain.ts';
import { hasCode, MIXED } from './restore-scene.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

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
