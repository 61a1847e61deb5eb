/** Copies one disk in a process of its own, so that a test can kill it or look at its memory. Prints the result as JSON. */
import { readFileSync } from 'node:fs';
import { createCopierPool } from '../../copier/pool.ts';
import type { CopyDiskOptions } from '../../copier/contract.ts';

const options = JSON.parse(process.argv[2] ?? '') as
  Omit<CopyDiskOptions, 'signal'> | Omit<CopyDiskOptions, 'signal'>[];
await using pool = createCopierPool();
const results = await Promise.all(
  [options].flat().map((one) => pool.copyDisk({ ...one, signal: new AbortController().signal })),
);
// Not `maxRSS` of getrusage: that starts with the memory of the process that started this one.
const peakKiB = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
console.log(JSON.stringify({ results, peakBytes: Number(peakKiB) * 1024 }));
