/** Copies one disk in a process of its own, so that a test can kill it or look at its memory. Prints the result as JSON. */
import { readFileSync } from 'node:fs';
import { createCopierPool } from '../../copier/pool.ts';
import type { CopyDiskOptions } from '../../copier/contract.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import type { RepositoryLocation } from '../../schemas/repository.ts';

type Copy = Omit<CopyDiskOptions, 'signal'> & {
  /** An upload that was begun, in place of `sink`. */
  upload?: { place: RepositoryLocation; key: string; token: string };
};

const copies = [JSON.parse(process.argv[2] ?? '') as Copy | Copy[]].flat();
await using pool = createCopierPool();
const { signal } = new AbortController();
const results = await Promise.all(
  copies.map(async ({ upload, ...copy }) => {
    const resumed = upload && (await openBlobStore(upload.place).resumeUpload(upload.key, upload.token));
    return await pool.copyDisk({ ...copy, ...(resumed ? { sink: resumed.sink } : {}), signal });
  }),
);
// Not `maxRSS` of getrusage: that starts with the memory of the process that started this one.
const peakKiB = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
console.log(JSON.stringify({ results, peakBytes: Number(peakKiB) * 1024 }));
