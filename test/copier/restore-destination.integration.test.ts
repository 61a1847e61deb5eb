import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { restoreDisk } from '../../copier/restore-disk.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { chainFolder, guestBytes, makeChain } from '../support/stored-chain.ts';
import { hasCode, MIXED } from './restore-scene.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

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
