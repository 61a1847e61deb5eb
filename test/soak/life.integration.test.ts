import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBed, type TestBed } from '../support/test-bed.ts';
import { randomLife } from './commands.ts';
import { Life } from './life.ts';
import { ModelVm } from './model.ts';

/** `npm run soak` sets them: how long, and from which seed to repeat a life that went wrong. */
const MINUTES = Number(process.env['HOLDFAST_SOAK_MINUTES'] ?? '0');
const SEED = Number(process.env['HOLDFAST_SOAK_SEED'] ?? (MINUTES > 0 ? Date.now() % 2 ** 31 : '20261121'));
/** A short life in every test run; a long one ends by time. */
const STEPS = MINUTES > 0 ? 100_000 : 18;
const DISK_BYTES = 4 * 1024 * 1024;
const CHAIN_SIZE = 4;
/** Raw disks hold no bitmaps: they live with snapshots only. */
const STRATEGIES = ['checkpoint', 'snapshot'] as const;
const DISKS = {
  checkpoint: { vda: 'qcow2', vdb: 'qcow2' },
  snapshot: { vda: 'raw', vdb: 'qcow2' },
} as const;

describe('a random life of VMs', () => {
  let bed: TestBed;
  let life: Life;
  beforeAll(async () => {
    bed = await startTestBed('kvm-life', { heartbeatSeconds: 3 });
    const vms = [];
    for (const strategy of STRATEGIES) {
      const offering = `by-${strategy}`;
      const name = `life-${strategy}`;
      const targets = ['vda', 'vdb'] as const;
      const guest = await bed.guest({
        name,
        disks: targets.map((target) => ({
          target,
          sizeBytes: DISK_BYTES,
          format: DISKS[strategy][target],
          fs: 'none',
        })),
      });
      await bed.holdfast.json(
        'offering',
        'create',
        offering,
        '--chain-size',
        String(CHAIN_SIZE),
        '--strategy',
        strategy,
      );
      await bed.holdfast.json('vm', 'ls');
      await bed.holdfast.json('offering', 'assign', offering, name);
      vms.push({
        model: new ModelVm({ name, strategy, chainSize: CHAIN_SIZE, targets, sizeBytes: DISK_BYTES }),
        guest,
      });
    }
    life = new Life(bed, vms);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  it(
    `keeps every backup right and every VM clean (seed ${SEED})`,
    async () => {
      const endsAt = MINUTES > 0 ? Date.now() + MINUTES * 60_000 : Infinity;
      const done: string[] = [];
      for (const command of randomLife(SEED, STEPS)) {
        if (Date.now() > endsAt) break;
        try {
          const step = await life.step(command);
          if (step !== undefined) done.push(step);
        } catch (error) {
          const before = `after:\n${done.join('\n')}\n${await life.describe()}`;
          throw new Error(`seed ${SEED}, at ${JSON.stringify(command)}, ${before}`, { cause: error });
        }
      }
      expect(done.length).toBeGreaterThan(0);
      await life.expectAllGood();
    },
    MINUTES > 0 ? (MINUTES + 30) * 60_000 : 600_000,
  );
});
