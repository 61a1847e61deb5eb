import { readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Guest } from '../test/support/guest.ts';
import { startS3Server } from '../test/support/s3-server.ts';
import type { Bench, Row } from './harness.ts';
import { discardRepositoryFiles } from './measure-full.ts';

const DISKS = 4;

/** The greatest resident size of a host worker, all its threads included, while it copies four disks at once. */
export const measureMemory = (bench: Bench): Promise<Row[]> =>
  measure(bench, {
    what: `copies ${DISKS} disks at once`,
    target: 350,
    flags: [],
    discard: (vm) => discardRepositoryFiles(bench, vm),
  });

/** The same while it uploads them to a bucket. */
export async function measureMemoryS3(bench: Bench): Promise<Row[]> {
  await using server = await startS3Server('versitygw');
  const { bucket, prefix } = await server.newPlace('memory');
  await bench.installation.json(
    ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', 'bucket', '--path-style'],
    ...['--endpoint', server.endpoint, '--credentials-file', server.credentialsFile],
  );
  return await measure(bench, {
    what: `uploads ${DISKS} disks at once`,
    target: 400,
    flags: ['--repo', 'bucket'],
    discard: ({ uuid }) => rm(join(server.dataDir, bucket, prefix, uuid), { recursive: true }),
  });
}

interface Measured {
  what: string;
  /** MB */
  target: number;
  /** Of `backup take`. */
  flags: string[];
  /** Removes the files of a full, unless a later backup builds on them. */
  discard: (vm: Guest) => Promise<void>;
}

async function measure(bench: Bench, { what, target, flags, discard }: Measured): Promise<Row[]> {
  const { installation, diskBytes, dataBytes, rounds } = bench;
  const shares = Array.from({ length: DISKS }, () => ({ sizeBytes: diskBytes / DISKS, dataBytes: dataBytes / DISKS }));
  const guest = await bench.guest('four-disks', shares);
  const rows: Row[] = [];
  for (const compression of ['none', 'zstd']) {
    const peaks: number[] = [];
    for (let round = 0; round < rounds; round += 1) {
      const take = (): Promise<unknown> =>
        installation.take(guest.name, '--full', '--compression', compression, ...flags);
      peaks.push(await peakOf(installation, take));
      await discard(guest);
    }
    const peak = Math.max(...peaks);
    rows.push({
      measurement: `memory of a worker that ${what} (${compression}), MB`,
      ours: peaks.map((each) => `${each.toFixed(0)} MB`).join(', '),
      peer: '',
      figure: peak,
      target,
    });
  }
  return rows;
}

/**
 * Peak resident size of the host worker during an act, in MB.
 * Source: proc(5), `VmHWM` of /proc/pid/status, which writing 5 to /proc/pid/clear_refs sets to the present size
 */
export async function peakOf(installation: Bench['installation'], act: () => Promise<unknown>): Promise<number> {
  const pid = installation.processes()['host'];
  if (pid === undefined) throw new Error('there is no host worker');
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  await act();
  const kib = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return (Number(kib) * 1024) / 1e6;
}
