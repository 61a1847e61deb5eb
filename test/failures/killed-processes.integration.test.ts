import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { signalProcess } from '../support/processes.ts';
import { startScene, type Scene } from './scene.ts';

const SEGMENT_BYTES = 4 * 1024 * 1024;

describe('a process is killed while a VM is backed up', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await startScene();
    await scene.take();
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  it('goes on in the same job after the host worker was killed in mid-copy, though the guest writes meanwhile', async () => {
    const { holdfast } = scene;
    const atInstant = await scene.contents();
    const { jobId, backupId, stored } = await scene.beginAndHold('--full');
    await holdfast.kill('host');
    const instant = await instantOf(scene, backupId);
    scene.contQemu();
    await scene.write();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    expect(result).toMatchObject({ id: backupId, instant, type: 'full' });
    if (result === null) return;
    const [vda] = result.disks;
    expect(stored).toBeGreaterThanOrEqual(2);
    // Read twice is at most what was in flight: a segment per thread.
    expect(vda?.readBytes).toBeLessThanOrEqual((vda?.changedBytes ?? 0) + 4 * SEGMENT_BYTES);
    expect(Object.values((await scene.manifest(result)).attempts)).toContain(2);
    await scene.expectStored(result, atInstant);
    await scene.expectNothingLeft();
    const next = await scene.expectNextRight({ type: 'incremental' });
    expect(next.disks[0]?.changedBytes).toBe(1024 * 1024);
  });

  it('goes on after the host worker was asked to end in mid-copy', async () => {
    const { holdfast } = scene;
    const atInstant = await scene.contents();
    const { jobId, backupId } = await scene.beginAndHold('--full');
    const killed = holdfast.kill('host', 'SIGTERM');
    setTimeout(() => scene.contQemu(), 1500);
    await killed;
    await scene.write();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    expect(result?.id).toBe(backupId);
    if (result !== null) await scene.expectStored(result, atInstant);
    await scene.expectNothingLeft();
    await scene.expectNextRight({ type: 'incremental' });
  });

  for (const service of ['control', 'temporal'] as const) {
    it(`succeeds though ${service} was killed in mid-copy`, async () => {
      const atInstant = await scene.contents();
      const { jobId } = await scene.beginAndHold('--full');
      await scene.holdfast.kill(service);
      await scene.holdfast.isBack(service);
      scene.contQemu();
      await scene.write();
      const { result, failure } = await scene.ended(jobId);
      expect(failure).toBeNull();
      if (result !== null) await scene.expectStored(result, atInstant);
      await scene.expectNothingLeft();
      await scene.expectNextRight({ type: 'incremental' });
    });
  }

  it('succeeds though libvirtd was killed in mid-copy', async () => {
    const atInstant = await scene.contents();
    const { jobId } = await scene.beginAndHold('--full');
    await scene.host.killLibvirtd();
    scene.contQemu();
    await scene.host.restartLibvirtd();
    await scene.write();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    if (result !== null) await scene.expectStored(result, atInstant);
    await scene.expectNothingLeft();
    await scene.expectNextRight({ type: 'incremental' });
  });

  it('succeeds though libvirtd is down when it is to begin', async () => {
    await scene.write();
    const atInstant = await scene.contents();
    const libvirtd = scene.host.libvirtdPid();
    signalProcess(libvirtd, 'SIGSTOP');
    const jobId = await scene.begin();
    await scene.isAt(jobId, /looking for the VM/);
    await scene.host.killLibvirtd();
    await scene.host.restartLibvirtd();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    if (result !== null) await scene.expectStored(result, atInstant);
    await scene.expectNothingLeft();
  });
});

async function instantOf({ holdfast, host }: Scene, backupId: string): Promise<string> {
  const path = join(holdfast.dataDir, 'hosts', host.name, 'captures', backupId, 'capture.json');
  const { begun } = JSON.parse(await readFile(path, 'utf8')) as { begun: { instant: string } };
  return begun.instant;
}
