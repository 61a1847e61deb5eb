import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { WorkflowHandle } from '@temporalio/client';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { writeBandwidth } from '../../repository/bandwidth.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import type { Backup } from '../../schemas/backup.ts';
import { overlayPath } from '../../schemas/delta.ts';
import { startGuest, type Guest } from '../support/guest.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { signalProcess, until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { expectOnOverlaysOf } from '../support/snapshot-vm.ts';
import {
  expectStored,
  kindsOf,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

/** More than the threads of a host copy at once: where the repository takes one byte a second, the rest waits. */
const HELD_BYTES = 20 * MiB;

describe('strategy snapshot, when something goes wrong', () => {
  let bed: TestBed;
  let guest: Guest;
  let stateDir: string;
  let vda: PatternedDisk;
  /** The newest backup, on whose overlay the VM lies. */
  let newest: Backup;
  let pattern = 1;
  beforeAll(async () => {
    bed = await startTestBed('kvm-snap-2', { heartbeatSeconds: 4 });
    stateDir = join(bed.holdfast.dataDir, 'hosts', bed.host.name);
    guest = await bed.guest({ name: 'w', disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'raw', fs: 'none' }] });
    await startGuest(guest);
    vda = new PatternedDisk(0, 64 * MiB);
    await write(16 * MiB);
    newest = await bed.take('w', TAKE);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const TAKE = { strategy: 'snapshot', chainSize: 0 } as const;
  const write = (lengthBytes = MiB) => vda.write(guest, 0, lengthBytes, (pattern = (pattern % 250) + 1));
  const begin = (request = {}): Promise<WorkflowHandle> =>
    bed.start('takeBackup', { vm: 'w', quiesce: 'none', ...TAKE, ...request });
  const captures = () => readdir(join(stateDir, 'captures'));
  const state = async () => await bed.holdfast.json<{ state: string; error: string | null }>('vm', 'show', 'w');

  async function isAt(job: WorkflowHandle, step: RegExp): Promise<void> {
    await until(
      `job is at ${String(step)}`,
      async () => step.test(JSON.stringify(await job.query('progress').catch(() => undefined))),
      { everyMs: 5, timeoutMs: 60_000 },
    );
  }

  /** Begins a backup of at least `HELD_BYTES` and holds it in mid-copy: its frozen images are not served until `goOn`. */
  async function beginHeld(request = {}): Promise<{ job: WorkflowHandle; goOn: () => void }> {
    const repository = openBlobStore({ kind: 'directory', path: bed.holdfast.repositoryDir });
    await writeBandwidth(repository, { version: 1, rate: 1, rules: [], timezone: 'UTC' });
    const job = await begin(request);
    const socketRoot = join('/run/holdfast', createHash('sha256').update(stateDir).digest('hex').slice(0, 12));
    let pid = 0;
    await until(
      'the frozen image is served',
      async () => {
        for (const id of await readdir(socketRoot).catch(() => [])) {
          const found = Number(await readFile(join(socketRoot, id, 'vda.pid'), 'utf8').catch(() => ''));
          if (found === 0 || !(await isOnItsOwn(found))) continue; // who started it still waits for it
          signalProcess(found, 'SIGSTOP');
          pid = found;
        }
        return pid > 0;
      },
      { everyMs: 1, timeoutMs: 60_000 },
    );
    await isAt(job, /copying/);
    await writeBandwidth(repository, undefined);
    const [id = ''] = await captures();
    const draft = await readFile(join(stateDir, 'captures', id, 'vda.draft.json'), 'utf8').catch(
      () => '{"copied":null}',
    );
    expect(JSON.parse(draft), 'the copy was over before it was held').toMatchObject({ copied: null });
    return { job, goOn: () => signalProcess(pid, 'SIGCONT') };
  }

  /** The VM lies on the overlay of the newest backup alone, and the next one is a right increment. */
  async function expectRight(): Promise<void> {
    await expectOnOverlaysOf(guest, newest);
    await write();
    newest = await bed.take('w', TAKE);
    expect(kindsOf(newest)).toEqual({ vda: 'incremental' });
    await expectStored(bed.holdfast, newest, { vda });
    await expectOnOverlaysOf(guest, newest);
    expect(await captures()).toEqual([]);
    expect(await state()).toMatchObject({ state: 'Idle', error: null });
  }

  it('goes on after the host worker was killed in mid-copy, though the guest writes meanwhile', async () => {
    await write(HELD_BYTES);
    const expected = { vda: { sha256: vda.sha256 } };
    const { job, goOn } = await beginHeld();
    await bed.holdfast.kill('host');
    goOn();
    await write();
    newest = await resultOf<Backup>(job);
    expect(newest.disks[0]?.changedBytes).toBe(HELD_BYTES);
    await expectStored(bed.holdfast, newest, expected);
    await expectRight();
  });

  it('goes on after the host worker was killed while it froze the VM', async () => {
    await write();
    const job = await begin();
    await until('it is freezing', async () => (await captures()).length > 0, { everyMs: 1 });
    await bed.holdfast.kill('host');
    newest = await resultOf<Backup>(job);
    await expectStored(bed.holdfast, newest, { vda });
    await expectRight();
  });

  it('has merged after the host worker was killed while it merged', async () => {
    await write(16 * MiB);
    const job = await begin();
    const note = join(stateDir, 'merges', guest.uuid, 'merging.json');
    await until('a merge has begun', () => existsSync(note), { everyMs: 1, timeoutMs: 60_000 });
    await bed.holdfast.kill('host');
    newest = await resultOf<Backup>(job);
    await expectStored(bed.holdfast, newest, { vda });
    await expectRight();
  });

  it('leaves the VM as it was when it is cancelled, or its time is up', async () => {
    await write(HELD_BYTES);
    const { job, goOn } = await beginHeld();
    await job.cancel();
    await isAt(job, /undoing/);
    goOn();
    await expect(resultOf(job)).rejects.toThrow(/cancel/i);
    await expectRight();

    await write(HELD_BYTES);
    const { job: slow, goOn: late } = await beginHeld({ timeLimitSeconds: 5 });
    await expect(resultOf(slow)).rejects.toThrow(/TimeLimitReached/);
    late();
    await expectRight();
  });

  it('goes on though QEMU ends, and the VM is started, in mid-copy', async () => {
    await write(HELD_BYTES);
    const expected = { vda: { sha256: vda.sha256 } };
    const { job, goOn } = await beginHeld();
    await guest.libvirt.destroy(guest.dom);
    goOn();
    newest = await resultOf<Backup>(job);
    await expectStored(bed.holdfast, newest, expected);
    await expectOnOverlaysOf(guest, newest, 'shutoff');

    const { job: stopped, goOn: whenStarted } = await beginHeld({ full: true });
    await startGuest(guest); // it is not kept from starting
    await write();
    whenStarted();
    newest = await resultOf<Backup>(stopped);
    expect(newest.consistency).toBe('stopped');
    await expectStored(bed.holdfast, newest, expected);
    await expectRight();
  });

  it('marks the VM when a merge fails, keeps every byte, and is repaired by chain finish', async () => {
    const [disk] = guest.disks;
    const before = newest;
    await write();
    await run('chattr', ['+i', disk!.path]);
    try {
      newest = await bed.take('w', TAKE);
      await expectStored(bed.holdfast, newest, { vda });
      expect(await state()).toMatchObject({
        state: 'BackupError',
        error: expect.stringMatching(/could not be merged.*chain finish/) as string,
      });
      const [now] = parseDomainXml(await guest.libvirt.domainXml(guest.dom)).disks;
      expect([now?.sourcePath, now?.backingChain[0]?.path]).toEqual([
        overlayPath(disk!.path, newest.id),
        overlayPath(disk!.path, before.id),
      ]);
    } finally {
      await run('chattr', ['-i', disk!.path]);
    }
    await write();
    await bed.holdfast.json('chain', 'finish', 'w');
    expect(await state()).toMatchObject({ state: 'Idle', error: null });
    await expectOnOverlaysOf(guest, null);
    expect(await sha256OfImage(disk!.path, 'raw')).toBe(vda.sha256);
  });

  it('undoes a run that was ended by force', async () => {
    await write();
    newest = await bed.take('w', TAKE);
    await write(HELD_BYTES);
    const { job, goOn } = await beginHeld();
    await job.terminate();
    await bed.holdfast.json('reclaim');
    goOn();
    await expectRight();
  });
});

/** Its parent has ended. */
async function isOnItsOwn(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? 0);
  const command = await readFile(`/proc/${parent}/comm`, 'utf8').catch(() => '');
  return stat !== '' && command.trim() !== 'qemu-nbd';
}
