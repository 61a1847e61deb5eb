import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { guestExec, guestShell, type Guest } from '../test/support/guest.ts';
import type { Bench, Row } from './harness.ts';
import { discardRepositoryFiles } from './measure-full.ts';
import { virtnbdbackup } from './virtnbdbackup.ts';

const BLOCK_BYTES = 4096;
const DEVICE = '/machine/peripheral/virtio-disk0/virtio-backend';

/** Upper ends of the histogram's bins, in nanoseconds: from 50 µs to 60 s, each 5 % above the one before. */
const BOUNDARIES = Array.from({ length: 288 }, (_, n) => Math.round(50_000 * 1.05 ** n));

/**
 * How long the guest's own random writes take while a full backup runs. The guest writes 4 KiB at a time, direct and
 * synced; QEMU counts for each how long it took from the guest's request to its completion, so that neither the guest's
 * coarse clock nor the start of a program is in it.
 */
export async function measureLatency(bench: Bench): Promise<Row[]> {
  const { installation, rounds, dataBytes, log } = bench;
  const ours = await bench.guest('latency-ours');
  const theirs = await bench.guest('latency-theirs');
  const peer = virtnbdbackup(bench, theirs);
  const contenders = {
    idle: { guest: ours, act: () => delay(5000), clean: () => Promise.resolve() },
    holdfast: {
      guest: ours,
      act: async () => {
        await installation.take(ours.name, '--full', '--compression', 'none');
      },
      clean: () => discardRepositoryFiles(bench, ours),
    },
    virtnbdbackup: { guest: theirs, act: () => peer.full(), clean: () => peer.discard() },
  };
  const names = ['idle', 'holdfast', 'virtnbdbackup'] as const;
  const bins = { idle: noBins(), holdfast: noBins(), virtnbdbackup: noBins() };
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const { guest, act, clean } = contenders[name];
      const counted = await writesDuring(guest, dataBytes, act);
      log(`    round ${round}: ${name} ${sum(counted)} writes, p99 ${text(counted, 0.99)}`);
      for (const [n, count] of counted.entries()) bins[name][n]! += count;
      await clean();
    }
  }
  const row = (measurement: string, peer: 'virtnbdbackup' | 'idle', share: number, target: number | null): Row => ({
    measurement,
    ours: text(bins.holdfast, share),
    peer: text(bins[peer], share),
    figure: percentileNs(bins.holdfast, share) / percentileNs(bins[peer], share),
    target,
  });
  return [
    row("guest's 4 KiB writes during a full, p99, to that beside `virtnbdbackup`", 'virtnbdbackup', 0.99, 1.5),
    row('the same, median', 'virtnbdbackup', 0.5, null),
    row('the same, p99, to that beside no backup', 'idle', 0.99, null),
  ];
}

/** The writes that the guest made while `act` ran, counted by how long they took. */
async function writesDuring(guest: Guest, dataBytes: number, act: () => Promise<unknown>): Promise<number[]> {
  const { libvirt, dom } = guest;
  const blocks = Math.floor(dataBytes / 2 / BLOCK_BYTES); // where the disk holds random bytes
  await guestShell(
    guest,
    `rm -f /run/stop; (while [ ! -e /run/stop ]; do
      dd if=/dev/zero of=/dev/vda bs=${BLOCK_BYTES} count=1 seek=$(( (RANDOM * 32768 + RANDOM) % ${blocks} )) oflag=direct conv=notrunc,fsync
    done) >/dev/null 2>&1 </dev/null &`,
  );
  await libvirt.monitorCommand(dom, {
    execute: 'block-latency-histogram-set',
    arguments: { id: DEVICE, 'boundaries-write': BOUNDARIES },
  });
  try {
    await act();
    const devices = blockStats.parse(await libvirt.monitorCommand(dom, { execute: 'query-blockstats' }));
    const histogram = devices.find(({ qdev }) => qdev === DEVICE)?.stats.wr_latency_histogram;
    if (histogram === undefined) throw new Error('QEMU gives no histogram');
    return histogram.bins;
  } finally {
    await guestExec(guest, ['/bin/touch', '/run/stop']);
  }
}

/** Source: QEMU qapi/block-core.json, `BlockStats`, `BlockLatencyHistogramInfo`; one bin more than boundaries */
const blockStats = z.array(
  z.object({
    qdev: z.string().optional(),
    stats: z.object({ wr_latency_histogram: z.object({ bins: z.array(z.number()) }).optional() }),
  }),
);

const noBins = (): number[] => new Array<number>(BOUNDARIES.length + 1).fill(0);

const sum = (bins: readonly number[]): number => bins.reduce((total, count) => total + count, 0);

/** Upper end of the bin in which the percentile lies. */
function percentileNs(bins: readonly number[], share: number): number {
  let left = sum(bins) * share;
  const found = bins.findIndex((count) => (left -= count) < 0);
  return BOUNDARIES[found] ?? Number.NaN;
}

const text = (bins: readonly number[], share: number): string => `${(percentileNs(bins, share) / 1e6).toFixed(2)} ms`;
