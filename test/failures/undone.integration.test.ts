import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startGuest, stopGuest } from '../support/guest.ts';
import { signalProcess, until } from '../support/processes.ts';
import { startScene, type Scene } from './scene.ts';

describe('a backup that cannot go on is undone', () => {
  let scene: Scene;
  beforeAll(async () => {
    scene = await startScene();
    await scene.take();
  });
  beforeEach(async () => {
    await scene.ready(); // also when the test before failed
    await scene.write();
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  it('fails with BackupJobLost when QEMU is killed in mid-copy', async () => {
    const { jobId } = await scene.beginAndHold('--full');
    signalProcess(scene.qemuPid(), 'SIGKILL');
    const { status, failure } = await scene.ended(jobId);
    expect({ status, type: failure?.type }).toEqual({ status: 'FAILED', type: 'BackupJobLost' });
    await scene.expectNothingLeft('shutoff');
    await startGuest(scene.guest);
    await scene.expectNextRight({ type: 'full', fullReasons: ['bitmap-inconsistent', 'checkpoint-lost'] });
  });

  it('fails with BackupJobLost when the guest shuts down in mid-copy', async () => {
    const { jobId } = await scene.beginAndHold('--full');
    const letHostWorkerCome = await scene.keepHostWorkerAway();
    scene.contQemu();
    await stopGuest(scene.guest).finally(letHostWorkerCome);
    const { status, failure } = await scene.ended(jobId);
    expect({ status, type: failure?.type }).toEqual({ status: 'FAILED', type: 'BackupJobLost' });
    await scene.expectNothingLeft('shutoff');
    await startGuest(scene.guest);
    await scene.expectNextRight({ type: 'incremental' }); // its images were closed as they should be
  });

  describe('cancelled', () => {
    const ways = {
      'by the command line': async (id: string) => {
        const { exitCode, stdout } = await scene.holdfast.cli('job', 'cancel', id, '--json');
        expect(exitCode).toBe(0);
        expect(JSON.parse(stdout)).toMatchObject({ status: 'CANCELLED', failure: { type: 'Cancelled' } });
      },
      'through Temporal': async (id: string) => {
        await (await scene.holdfast.client()).workflow.getHandle(id).cancel();
      },
    };
    for (const [way, cancel] of Object.entries(ways)) {
      it(`in mid-copy, ${way}`, async () => {
        const { jobId } = await scene.beginAndHold('--full');
        const cancelled = cancel(jobId);
        await scene.isAt(jobId, /cancelled, undoing/);
        scene.contQemu();
        await cancelled;
        const { status, failure } = await scene.ended(jobId);
        expect({ status, type: failure?.type }).toEqual({ status: 'CANCELLED', type: 'Cancelled' });
        await scene.expectNothingLeft();
        await scene.expectNextRight({ type: 'incremental' });
      });
    }

    it('before the freeze, while libvirt does not answer', async () => {
      const libvirtd = scene.host.libvirtdPid();
      signalProcess(libvirtd, 'SIGSTOP');
      const jobId = await scene.begin();
      await scene.isAt(jobId, /looking for the VM/);
      await (await scene.holdfast.client()).workflow.getHandle(jobId).cancel();
      const { status, failure } = await scene.ended(jobId);
      signalProcess(libvirtd, 'SIGCONT');
      expect({ status, type: failure?.type }).toEqual({ status: 'CANCELLED', type: 'Cancelled' });
      await scene.expectNothingLeft();
      await scene.expectNextRight({ type: 'incremental' });
    });

    it('while the point in time is being frozen', async () => {
      const jobId = await scene.begin();
      await scene.isAt(jobId, /freezing a point in time|copying/);
      scene.stopQemu();
      await (await scene.holdfast.client()).workflow.getHandle(jobId).cancel();
      setTimeout(() => scene.contQemu(), 3000);
      const { status } = await scene.ended(jobId);
      await scene.expectNothingLeft();
      expect(['CANCELLED', 'COMPLETED']).toContain(status);
      await scene.expectNextRight({ type: 'incremental' });
    });

    it('while the manifest is being written: it comes about or is undone, never half', async () => {
      const jobId = await scene.begin();
      await scene.isAt(jobId, /ending the backup job|writing the manifest|tidying up|done/);
      await (
        await scene.holdfast.client()
      ).workflow
        .getHandle(jobId)
        .cancel()
        .catch(() => undefined);
      const { status, result } = await scene.ended(jobId);
      expect(['CANCELLED', 'COMPLETED']).toContain(status);
      const listed = await scene.catalog.backups.list({ states: ['BackedUp'] });
      if (result !== null) expect(listed.map(({ id }) => id)).toContain(result.id);
      await scene.expectNothingLeft();
      await scene.expectNextRight({ type: 'incremental' });
    });

    it('gives exit code 1 and the type Cancelled to the command that waits', async () => {
      const taking = scene.holdfast.start('backup', 'take', scene.vm, '--full', '--json');
      const client = await scene.holdfast.client();
      let id: string | undefined;
      await until('the run is there', async () => {
        scene.stopQemu();
        const query = 'WorkflowType = "takeBackup" AND ExecutionStatus = "Running"';
        for await (const run of client.workflow.list({ query })) id = run.workflowId;
        return id !== undefined;
      });
      if (id === undefined) return;
      await client.workflow.getHandle(id).cancel();
      scene.contQemu();
      const { exitCode, stderr } = await taking;
      expect({ exitCode, error: JSON.parse(stderr) as unknown }).toMatchObject({
        exitCode: 1,
        error: { error: { type: 'Cancelled' } },
      });
      await scene.expectNothingLeft();
    });
  });

  it('stops at its time limit', async () => {
    const jobId = await scene.begin('--time-limit', '2');
    scene.stopQemu();
    setTimeout(() => scene.contQemu(), 6000);
    const { status, failure } = await scene.ended(jobId);
    expect({ status, type: failure?.type }).toEqual({ status: 'FAILED', type: 'TimeLimitReached' });
    expect(failure?.message).toMatch(/web-1.*2 s/);
    await scene.expectNothingLeft();
    await scene.expectNextRight({ type: 'incremental' });
  });

  describe('terminated by hand in mid-copy', () => {
    it('is undone by reclaim', async () => {
      const { jobId, backupId } = await scene.beginAndHold('--full');
      await (await scene.holdfast.client()).workflow.getHandle(jobId).terminate('by hand');
      scene.contQemu();
      const { found, problems } = await scene.holdfast.json<{ found: string[]; problems: string[] }>(
        'reclaim',
        '--grace',
        '0',
      );
      expect(problems).toEqual([]);
      expect(found.join('\n')).toContain(backupId);
      expect(await scene.catalog.backups.find(backupId)).toMatchObject({
        backup: { state: 'Failed' },
        failure: { type: 'Terminated' },
      });
      await scene.expectNothingLeft();
      await scene.expectNextRight({ type: 'incremental' });
    });

    it('does not hold up the next backup, and what it left goes with the next reclaim', async () => {
      const now = await scene.contents();
      const { jobId } = await scene.beginAndHold('--full');
      await (await scene.holdfast.client()).workflow.getHandle(jobId).terminate('by hand');
      scene.contQemu();
      const next = await scene.take();
      expect(next.disks.map(({ fullReason }) => fullReason)).toEqual(next.disks.map(() => null));
      await scene.expectStored(next, now);
      await scene.holdfast.json('reclaim', '--grace', '0');
      await scene.expectNothingLeft();
      await scene.expectNextRight({ type: 'incremental' });
    });
  });
});
