import { copyFile, open, rm, truncate } from 'node:fs/promises';
import { afterAll, describe, expect, it } from 'vitest';
import type { ChainFile } from '../../copier/contract.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import { chainFolder, makeChain } from '../support/stored-chain.ts';
import { hasCode, MIXED } from './restore-scene.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

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
