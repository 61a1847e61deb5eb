import { readFileSync, writeFileSync } from 'node:fs';
import type { Bench, Row } from './harness.ts';
import { discardRepositoryFiles } from './measure-full.ts';

const DISKS = 4;

/** The greatest resident size of a host worker, all its threads included, while it copies four disks at once. */
export async function measureMemory(bench: Bench): Promise<Row[]> {
  const { installation, diskBytes, dataBytes, rounds } = bench;
  const shares = Array.from({ length: DISKS }, () => ({ sizeBytes: diskBytes / DISKS, dataBytes: dataBytes / DISKS }));
  const guest = await bench.guest('four-disks', shares);
  const rows: Row[] = [];
  for (const compression of ['none', 'zstd']) {
    let peak = 0;
    for (let round = 0; round < rounds; round += 1) {
      peak = Math.max(
        peak,
        await peakOf(installation, () => installation.take(guest.name, '--full', '--compression', compression)),
      );
      await discardRepositoryFiles(bench, guest);
    }
    rows.push({
      measurement: `memory of a worker that copies ${DISKS} disks at once (${compression}), MB`,
      ours: `${peak.toFixed(0)} MB`,
      peer: '',
      figure: peak,
      target: 350,
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
