import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { until } from '../support/processes.ts';
import { startScene, type Scene } from './scene.ts';

const ROUNDS = 4;

describe('answers that are lost or late', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await startScene();
    await scene.take();
  });
  beforeEach(async () => {
    await scene.ready();
    await scene.write();
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  it('makes the second of two backups of a VM wait, and says what for', async () => {
    const now = await scene.contents();
    const { jobId: first } = await scene.beginAndHold('--full');
    const second = await scene.begin();
    await scene.isAt(second, /waiting.*web-1/);
    expect((await scene.job(second)).waitingFor).toMatch(/web-1.*takeBackup/);
    scene.contQemu();
    const results = [await scene.ended(first), await scene.ended(second)];
    expect(results.map(({ failure }) => failure)).toEqual([null, null]);
    expect(results.map(({ result }) => result?.type)).toEqual(['full', 'incremental']);
    const last = results[1]?.result;
    if (last != null) await scene.expectStored(last, now);
    await scene.expectNothingLeft();
  });

  it('waits for a host whose worker is away, and says so', async () => {
    const now = await scene.contents();
    const letHostWorkerCome = await scene.keepHostWorkerAway();
    const jobId = await scene.begin();
    await scene.isAt(jobId, /waiting for host kvm-1/);
    await letHostWorkerCome();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    if (result !== null) await scene.expectStored(result, now);
    await scene.expectNothingLeft();
  });

  for (const process of ['host', 'control'] as const) {
    it(`lists a backup once though ${process} is killed between its manifest and the answer`, async () => {
      for (let round = 0; round < 2; round += 1) {
        await scene.write();
        const now = await scene.contents();
        const before = await manifests(scene);
        const jobId = await scene.begin();
        await until('a manifest appears', async () => (await manifests(scene)).length > before.length, { everyMs: 1 });
        await scene.holdfast.kill(process);
        const { result, failure } = await scene.ended(jobId);
        expect(failure).toBeNull();
        expect(await manifests(scene)).toHaveLength(before.length + 1);
        if (result !== null) await scene.expectStored(result, now);
        await scene.expectNothingLeft();
        await scene.holdfast.isBack(process);
      }
    });
  }

  it(`makes ${ROUNDS} right backups, though at each some process is killed at some moment`, async () => {
    const story: string[] = [];
    try {
      for (let round = 0; round < ROUNDS; round += 1) {
        await scene.write();
        const now = await scene.contents();
        const victim = pick(['host', 'control', 'temporal', 'libvirtd']);
        const afterMs = Math.round(Math.random() * 2500);
        story.push(`${victim} after ${afterMs} ms`);
        const jobId = await scene.begin();
        await delay(afterMs);
        if (victim === 'libvirtd') {
          await scene.host.killLibvirtd();
          await scene.host.restartLibvirtd();
        } else {
          await scene.holdfast.kill(victim);
          await scene.holdfast.isBack(victim);
        }
        const { result, failure } = await scene.ended(jobId, { timeoutMs: 90_000 });
        expect(failure).toBeNull();
        if (result !== null) await scene.expectStored(result, now);
        await scene.expectNothingLeft();
      }
    } catch (error) {
      throw new Error(`killed: ${story.join(', ')}`, { cause: error });
    }
  }, 400_000);
});

const manifests = ({ holdfast, guest }: Scene): Promise<string[]> =>
  readdir(join(holdfast.repositoryDir, guest.uuid, 'backups')).then((names) =>
    names.filter((name) => name.endsWith('.json') && !name.startsWith('.')),
  );

function pick<T>(from: readonly [T, ...T[]]): T {
  return from[Math.floor(Math.random() * from.length)] ?? from[0];
}
