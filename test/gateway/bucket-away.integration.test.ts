import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { setTimeout as delay } from 'node:timers/promises';
import type { Backup } from '../../schemas/backup.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import { findGuest, startSha256, waitForAgent, type Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { missingS3Server } from '../support/s3-server.ts';
import { MiB, resultOf } from '../support/test-bed.ts';
import { BucketScene, PATIENT } from './bucket-scene.ts';

/** Longer than a gateway holds a read back, and than a guest's drivers may wait. */
const AWAY_MS = 22_000;

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'a VM whose bucket is away', { timeout: 300_000 }, () => {
  let scene: BucketScene;
  let plain: Backup;

  beforeAll(async () => {
    scene = await BucketScene.start('kvm-away');
    plain = await scene.takePlain();
    await scene.bed.host.libvirt.destroy(scene.guest.dom);
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  it('goes on with a plain backup when its gateway is killed and its server stops, looked after by a job or not', async () => {
    const { bed, vda, vdb } = scene;
    const { consolidation = '' } = await bed.restore(plain.id, { as: 'alone', quick: true, rateMBps: 1 });
    const copy = await findGuest(bed.host, 'alone');
    await waitForAgent(copy);
    await bed.holdfast.json('job', 'cancel', consolidation);
    const stored = `${vdb.sha256}  /dev/vdb\n`;
    const unread = await startWithServerAway(copy, 'vdb');
    expect(await unread()).toBe(stored);
    const again = await startSha256(copy, '/dev/vdb');
    process.kill(await scene.gatewayPid(), 'SIGKILL');
    expect(await again()).toBe(stored);
    const mine = vdb.as(1);
    await mine.write(copy, 40 * MiB, MiB, 0x21);

    const { jobId } = await bed.holdfast.json<{ jobId: string }>(
      ...['consolidation', 'resume', 'alone', '--rate', '1', '--no-wait'],
    );
    await until('vdb is being pulled again', () => scene.isPulled(copy, 'vdb'), PATIENT);
    const first = await scene.gatewayPid();
    process.kill(first, 'SIGKILL');
    await until('another gateway serves', async () => ![first, 0].includes(await scene.gatewayPid()), PATIENT);
    await until('the pull has gone on', () => scene.isPulled(copy, 'vdb'), PATIENT);
    const whilePulled = await startWithServerAway(copy, 'vdb');
    await bed.holdfast.json('consolidation', 'rate', 'alone', '0');
    expect(await whilePulled()).toBe(`${mine.sha256}  /dev/vdb\n`);
    const done = await resultOf<ConsolidatedVm>((await bed.holdfast.client()).workflow.getHandle(jobId));
    await scene.expectIndependent(copy, done, { vda: vda.sha256, vdb: mine.sha256 });
  });

  /** Begins to read a disk in the guest while the server is away for longer than anything waits for it. */
  async function startWithServerAway(copy: Guest, target: string): Promise<() => Promise<string>> {
    await scene.server.kill();
    const reading = await startSha256(copy, `/dev/${target}`);
    await delay(AWAY_MS);
    await until(
      'the guest stands still',
      async () => (await scene.bed.host.libvirt.state(copy.dom)).state === 'paused',
      PATIENT,
    );
    await scene.server.restart();
    return reading;
  }
});
