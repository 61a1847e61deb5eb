import { join } from 'node:path';
import type { Backup } from '../schemas/backup.ts';
import { applyChange, changePattern, MIB, planChange, type Change } from './disk-content.ts';
import { compared, interleaved, type Bench, type Row } from './harness.ts';
import { stepsOfLastRun } from './run-steps.ts';
import { virtnbdbackup } from './virtnbdbackup.ts';

/** The whole command for an increment beside `virtnbdbackup -l inc`, after the same change to both their guests. */
export async function measureIncremental(bench: Bench): Promise<Row[]> {
  const { installation, folder, dataBytes, rounds, log } = bench;
  const ours = await bench.guest('inc-ours');
  const theirs = await bench.guest('inc-theirs');
  const peer = virtnbdbackup(bench, theirs);
  await installation.take(ours.name, '--full', '--chain-size', '0');
  await peer.full();

  let change: Change = { writes: [], dirtyBytes: 0 };
  const taken: { backup: Backup; change: Change }[] = [];
  const seconds = await interleaved(
    bench,
    {
      holdfast: {
        act: async () => {
          taken.push({ backup: await installation.take(ours.name, '--chain-size', '0'), change });
        },
      },
      virtnbdbackup: { act: () => peer.inc() },
    },
    {
      eachRound: async () => {
        change = planChange(dataBytes);
        const pattern = changePattern(join(folder, 'change.bin'));
        await applyChange(ours, change, pattern);
        await applyChange(theirs, change, pattern);
      },
    },
  );
  await peer.discard();
  const { steps, totalMs } = await stepsOfLastRun(await installation.client(), 'takeBackup');
  log(`    the last run took ${totalMs.toFixed(0)} ms inside Temporal; its steps on the host:`);
  for (const { name, scheduledMs, waitedMs, tookMs } of steps) {
    log(`      ${name} at ${scheduledMs.toFixed(0)} ms, waited ${waitedMs.toFixed(0)}, took ${tookMs.toFixed(0)}`);
  }
  const wrong = taken.find(({ backup }) => backup.type !== 'incremental');
  if (wrong !== undefined)
    throw new Error(`backup ${wrong.backup.id} is no increment: ${JSON.stringify(wrong.backup.disks)}`);
  const readBytes = taken.reduce((sum, { backup }) => sum + (backup.disks[0]?.readBytes ?? 0), 0);
  const dirtyBytes = taken.reduce((sum, one) => sum + one.change.dirtyBytes, 0);
  const each = (bytes: number): string => `${(bytes / (rounds + 1) / MIB).toFixed(0)} MiB`;
  return [
    compared('incremental, whole command, to `virtnbdbackup -l inc`', seconds.holdfast, seconds.virtnbdbackup, 0.6),
    {
      measurement: 'incremental, bytes read to bytes of dirty clusters',
      ours: each(readBytes),
      peer: each(dirtyBytes),
      figure: readBytes / dirtyBytes,
      target: 1.02,
    },
  ];
}
