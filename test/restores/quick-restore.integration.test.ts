import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GatewaySpec } from '../../gateway/spec.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { LibvirtError } from '../../libvirt/libvirt.ts';
import { describeJob } from '../../operations/jobs.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { VmRecord } from '../../schemas/catalog.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from '../support/disk-content.ts';
import { failingFolder, type FailingFolder } from '../support/failing-folder.ts';
import { findGuest, startSha256, waitForAgent, type Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import { MiB, PatternedDisk, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';

const SIZE = 96 * MiB;
/** What waits for many steps of several processes has much time: the machine may be busy. */
const PATIENT = { timeoutMs: 150_000, everyMs: 200 };

describe('a quick restore', { timeout: 400_000 }, () => {
  let bed: TestBed;
  let guest: Guest;
  let last: Backup;
  let failing: Awaited<ReturnType<typeof tempDir>>;
  let folder: FailingFolder;
  const vda = new PatternedDisk(0, SIZE);
  const vdb = new PatternedDisk(1, SIZE);

  beforeAll(async () => {
    failing = await tempDir();
    folder = await failingFolder(join(failing.path, 'f'), 256); // before the host: its daemon has mounts of its own
    bed = await startTestBed('kvm-quick');
    guest = await bed.guest({
      name: 'web-1',
      disks: [
        { target: 'vda', sizeBytes: SIZE, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: SIZE, format: 'qcow2', fs: 'none' },
      ],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 60 * MiB, 0x11);
    await vdb.write(guest, 8 * MiB, 40 * MiB, 0x12);
    await bed.take('web-1');
    await vda.write(guest, 4 * MiB, 10 * MiB, 0x13);
    await bed.take('web-1');
    await vda.write(guest, 70 * MiB, 10 * MiB, 0x14);
    await vdb.write(guest, 9 * MiB, 5 * MiB, 0x15);
    last = await bed.take('web-1');
    await bed.host.libvirt.destroy(guest.dom);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
    await failing[Symbol.asyncDispose]();
  });

  const image = (target: string): string => guest.disks.find((disk) => disk.target === target)?.path ?? '';
  const stepOf = async (id: string): Promise<string> => {
    const job = await describeJob(await bed.holdfast.client(), id); // a command each time would starve the guests
    return `${job.status}: ${job.waitingFor ?? job.step ?? ''}`;
  };
  const isAt = (id: string, step: RegExp): Promise<void> =>
    until(`job ${id} is at ${step}`, async () => step.test(await stepOf(id)), PATIENT);
  const consolidated = async ({ consolidation }: RestoredVm): Promise<ConsolidatedVm> =>
    await resultOf((await bed.holdfast.client()).workflow.getHandle(consolidation ?? ''));
  const failureOf = async (...command: string[]): Promise<{ type: string; message: string }> => {
    const { exitCode, stderr } = await bed.holdfast.cli(...command, '--json');
    expect(exitCode).toBe(1);
    return (JSON.parse(stderr) as { error: { type: string; message: string } }).error;
  };
  const vmStateOf = async (vm: string): Promise<string> => (await bed.holdfast.json<VmRecord>('vm', 'show', vm)).state;

  /** The VM runs on disks of its own: sound, right to the last byte, and nothing is left of the restore. */
  async function expectIndependent(
    name: string,
    expected: Record<string, PatternedDisk>,
    paths: Record<string, string>,
  ): Promise<void> {
    const copy = await findGuest(bed.host, name);
    const all = [...guest.disks.map(({ path }) => path), ...Object.values(paths)].map((path) => basename(path));
    await expectVmClean(copy, name, { activeImages: paths, otherFiles: all });
    expect(await vmStateOf(name)).toBe('Idle');
    expect(await bed.holdfast.json('consolidation', 'ls')).toEqual([]);
    const xml = await bed.host.libvirt.domainXml(copy.dom, { inactive: true });
    expect(parseDomainXml(xml).disks.flatMap(({ backingChain }) => backingChain)).toEqual([]);
    expect(xml).not.toContain('rror_policy');
    await bed.host.libvirt.destroy(copy.dom);
    for (const [target, path] of Object.entries(paths)) {
      await qemuImgCheck(path);
      expect((await qemuImgInfo(path)).backingFile).toBeNull();
      expect(await sha256OfImage(path, 'qcow2')).toBe(expected[target]?.sha256);
    }
  }
  /** Ends the only gateway there is, as a power cut would. Gives the folder of its sockets. */
  async function killGateway(): Promise<string> {
    const gateways = join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'gateways');
    const [id = ''] = await readdir(gateways);
    const holder = await readFile(join(gateways, id, 'process'), 'utf8');
    process.kill(Number(holder.split(' ')[0]), 'SIGKILL');
    const spec = JSON.parse(await readFile(join(gateways, id, 'spec.json'), 'utf8')) as GatewaySpec;
    return dirname(spec.disks[0]?.socketPath ?? '');
  }
  /** Its QEMU connects to the gateway as it starts. */
  const starts = async ({ dom }: Guest): Promise<boolean> =>
    await bed.host.libvirt.create(dom).then(
      () => true,
      (error: unknown) => {
        if (error instanceof LibvirtError) return false;
        throw error;
      },
    );
  async function remove(name: string, paths: Record<string, string>): Promise<void> {
    await bed.host.libvirt.undefine((await findGuest(bed.host, name)).dom);
    for (const path of Object.values(paths)) await rm(path);
  }
  const pathsOf = ({ disks }: Pick<RestoredVm, 'disks'>): Record<string, string> =>
    Object.fromEntries(disks.map(({ target, path }) => [target, path]));

  it('as a new VM boots at once, keeps what its guest writes, and ends with disks that depend on nothing', async () => {
    const restored = await bed.restore(last.id, { as: 'web-2', quick: true, rateMBps: 40 });
    const copy = await findGuest(bed.host, 'web-2');
    await waitForAgent(copy);
    expect(restored.disks.map(({ verified }) => verified)).toEqual([false, false]);
    const mine = { vda: vda.as(0), vdb: vdb.as(1) };
    await mine.vda.write(copy, 30 * MiB, 2 * MiB, 0x21);
    await mine.vdb.write(copy, 80 * MiB, 2 * MiB, 0x22);
    const done = await consolidated(restored);
    expect(done.disks.map(({ verified }) => verified)).toEqual([true, true]);
    await expectIndependent('web-2', mine, pathsOf(done));
    await remove('web-2', pathsOf(done));
  });

  it('is refused the same way however it is asked for when the offering does not allow it', async () => {
    await bed.holdfast.json('offering', 'create', 'strict');
    await bed.holdfast.json('offering', 'assign', 'strict', 'web-1');
    const before = await stat(image('vda'));
    const { type, message } = await failureOf('restore', last.id, '--quick');
    expect(type).toBe('QuickRestoreNotAllowed');
    expect(message).toMatch(/^offering strict of VM web-1 does not allow quick restore/);
    await expect(bed.restore(last.id, { quick: true, as: 'web-2' })).rejects.toThrow(`${type}: ${message}`);
    expect(await stat(image('vda'))).toEqual(before);
    await bed.holdfast.json('offering', 'update', 'strict', '--quick-restore');
  });

  it('in place goes on across a new libvirtd, a killed gateway, and a reboot of its host', async () => {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 99 0 40M', image('vda')]);
    const former = (await stat(image('vda'))).ino;
    const restored = await bed.restore(last.id, { quick: true, rateMBps: 1 });
    const job = restored.consolidation ?? '';
    expect(restored.disks.map(({ path }) => path)).toEqual([image('vda'), image('vdb')]);
    await waitForAgent(guest);
    const mine = { vda: vda.as(0), vdb: vdb.as(1) };
    await mine.vda.write(guest, 50 * MiB, MiB, 0x31);

    expect(await vmStateOf('web-1')).toBe('Restoring');
    const kept = (await readdir(guest.dir)).filter((name) => name.includes('.former-'));
    expect(kept).toHaveLength(2);
    expect((await stat(join(guest.dir, kept.find((name) => name.includes('vda')) ?? ''))).ino).toBe(former);
    expect(await failureOf('backup', 'delete', last.id)).toMatchObject({
      type: 'BackupNotDeletable',
      message: expect.stringMatching(
        new RegExp(`VM web-1 runs on it since its quick restore; wait for job ${job}`),
      ) as string,
    });
    const { jobId: backup } = await bed.holdfast.json<{ jobId: string }>('backup', 'take', 'web-1', '--no-wait');
    await isAt(backup, new RegExp(`waiting for VM web-1: consolidateDisks ${job}`));

    await isAt(job, /pulling vda [1-9]\d* %, vdb 0 %, at most 1 MB\/s/);
    await bed.host.restartLibvirtd();
    await mine.vda.write(guest, 90 * MiB, MiB, 0x32);
    const reading = await startSha256(guest, '/dev/vdb');
    await killGateway();
    expect(await reading()).toBe(`${mine.vdb.sha256}  /dev/vdb\n`);
    await isAt(job, /RUNNING: pulling vda/);
    await bed.host.libvirt.destroy(guest.dom);
    await isAt(job, /waiting for VM web-1 to be started/);
    // No process and no socket is left after a reboot. The worker is all that comes by itself.
    await rm(await killGateway(), { recursive: true });
    await bed.holdfast.kill('host');
    await bed.host.restartLibvirtd();
    await bed.holdfast.isBack('host');
    await until('the VM starts', () => starts(guest), PATIENT);
    await isAt(job, /RUNNING: pulling vda/);
    await mine.vdb.write(guest, 10 * MiB, MiB, 0x33);
    await bed.holdfast.json('consolidation', 'rate', 'web-1', '0');
    expect((await consolidated(restored)).disks.every(({ verified }) => verified)).toBe(true);

    const next = await resultOf<Backup>((await bed.holdfast.client()).workflow.getHandle(backup));
    expect(next.disks.map(({ type, fullReason }) => `${type} ${fullReason ?? ''}`)).toEqual([
      'full disk-replaced',
      'full disk-replaced',
    ]);
    for (const checkpoint of await bed.host.libvirt.checkpointList(guest.dom))
      await bed.host.libvirt.checkpointDelete(guest.dom, checkpoint);
    await expectIndependent('web-1', mine, { vda: image('vda'), vdb: image('vdb') });
  });

  it('is undone completely when the VM does not start', async () => {
    const before = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    const inodes = [await stat(image('vda')), await stat(image('vdb'))].map(({ ino }) => ino);
    const missing = `<disk type='file' device='disk'><source file='${bed.dir}/missing'/><target dev='vdz' bus='virtio'/></disk>`;
    await bed.host.libvirt.define(before.replace('</devices>', `${missing}</devices>`));
    const broken = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    await expect(bed.restore(last.id, { quick: true })).rejects.toThrow(
      /^VmStartFailed: VM web-1 does not start on the backup: .*missing/,
    );
    expect(await bed.host.libvirt.domainXml(guest.dom, { inactive: true })).toBe(broken);
    expect([await stat(image('vda')), await stat(image('vdb'))].map(({ ino }) => ino)).toEqual(inodes);
    expect((await readdir(guest.dir)).toSorted()).toEqual([basename(image('vda')), basename(image('vdb'))]);
    expect(await bed.holdfast.json('consolidation', 'ls')).toEqual([]);
    expect(await vmStateOf('web-1')).toBe('Idle');
    await bed.host.libvirt.define(before);
  });

  it('tells of a damaged backup, and can be undone', async () => {
    const before = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    const inodes = [await stat(image('vda')), await stat(image('vdb'))].map(({ ino }) => ino);
    const key = last.disks.find(({ target }) => target === 'vda')?.file ?? '';
    const stored = await readFile(bed.holdfast.blob(key));
    const frame = stored.indexOf(Buffer.from('28b52ffd', 'hex'), 65_536); // a compressed cluster that QEMU cannot read then
    await writeFile(bed.holdfast.blob(key), stored.fill(0, frame, frame + 4), { flag: 'r+' });
    try {
      const restored = await bed.restore(last.id, { quick: true });
      await expect(consolidated(restored)).rejects.toThrow(
        new RegExp(`^IntegrityMismatch: VM web-1 was restored from a backup that is damaged: .*${key}`),
      );
      expect(await vmStateOf('web-1')).toBe('RestoreError');
      expect((await failureOf('backup', 'delete', last.id)).type).toBe('BackupNotDeletable');
      expect((await failureOf('consolidation', 'undo', 'web-1')).type).toBe('VmNotStopped');
      await bed.host.libvirt.destroy(guest.dom);
      await bed.holdfast.json('consolidation', 'undo', 'web-1', '--dry-run');
      await bed.holdfast.json('consolidation', 'undo', 'web-1');
    } finally {
      stored.write('28b52ffd', frame, 'hex');
      await writeFile(bed.holdfast.blob(key), stored, { flag: 'r+' });
    }
    expect([await stat(image('vda')), await stat(image('vdb'))].map(({ ino }) => ino)).toEqual(inodes);
    expect((await readdir(guest.dir)).toSorted()).toEqual([basename(image('vda')), basename(image('vdb'))]);
    expect(await bed.host.libvirt.domainXml(guest.dom, { inactive: true })).toBe(before);
    expect(await bed.holdfast.json('consolidation', 'ls')).toEqual([]);
    expect(await vmStateOf('web-1')).toBe('Idle');
  });

  it('is never forgotten: a terminated consolidation is begun again, a cancelled one when asked', async () => {
    const restored = await bed.restore(last.id, { as: 'web-3', quick: true, rateMBps: 1 });
    const job = restored.consolidation ?? '';
    const copy = await findGuest(bed.host, 'web-3');
    const mine = { vda: vda.as(0), vdb: vdb.as(1) };
    await mine.vda.write(copy, 20 * MiB, MiB, 0x41);
    await isAt(job, /pulling vda/);
    const handle = (await bed.holdfast.client()).workflow.getHandle(job);
    await handle.terminate('by the test');
    expect((await failureOf('backup', 'delete', last.id)).type).toBe('BackupNotDeletable');
    const { jobId: backup } = await bed.holdfast.json<{ jobId: string }>('backup', 'take', 'web-3', '--no-wait');
    await isAt(backup, /waiting for VM web-3: consolidateDisks/); // though the run that was granted it has ended
    await bed.holdfast.json('job', 'cancel', backup);
    const { found } = await bed.holdfast.json<{ found: string[] }>('reclaim');
    expect(found).toEqual([expect.stringMatching(/^VM web-3 runs on backup /)]);
    await isAt(job, /RUNNING: pulling vda/);

    await bed.holdfast.json('job', 'cancel', job);
    expect(await bed.host.libvirt.blockJobInfo(copy.dom, 'vda')).toBeUndefined();
    expect((await bed.host.libvirt.state(copy.dom)).state).toBe('running');
    expect((await failureOf('backup', 'delete', last.id)).type).toBe('BackupNotDeletable');
    expect((await bed.holdfast.json<{ found: string[] }>('reclaim')).found).toEqual([]);
    expect(await stepOf(job)).toMatch(/^CANCELLED/);
    await mine.vdb.write(copy, 20 * MiB, MiB, 0x42);
    const done = await bed.holdfast.json<ConsolidatedVm>('consolidation', 'resume', 'web-3', '--rate', '0');
    await expectIndependent('web-3', mine, pathsOf(done));
    await remove('web-3', pathsOf(done));
    expect(await failureOf('consolidation', 'resume', 'web-3')).toMatchObject({ type: 'NothingToConsolidate' });
  });

  it('stands still while its repository cannot be read, and reads no byte that was not stored', async () => {
    await bed.holdfast.json('repo', 'add', join(folder.path, 'repo'), '--name', 'failing');
    await bed.host.libvirt.create(guest.dom);
    const full = await bed.take('web-1', { repository: 'failing', full: true });
    await bed.host.libvirt.destroy(guest.dom);
    const contents = {
      vda: await sha256OfImage(image('vda'), 'qcow2'),
      vdb: await sha256OfImage(image('vdb'), 'qcow2'),
    };

    const restored = await bed.restore(full.id, { as: 'web-4', quick: true, rateMBps: 1 });
    const job = restored.consolidation ?? '';
    const copy = await findGuest(bed.host, 'web-4');
    await waitForAgent(copy);
    await isAt(job, /pulling vda/);
    await folder.fail();
    const reading = await startSha256(copy, '/dev/vda', '/dev/vdb');
    await until(
      'the guest stands still',
      async () => (await bed.host.libvirt.state(copy.dom)).state === 'paused',
      PATIENT,
    );
    await isAt(job, /waiting for the repository, and the guest stands still/);
    await folder.heal();
    await until('the guest goes on', async () => (await bed.host.libvirt.state(copy.dom)).state === 'running', PATIENT);
    await bed.holdfast.json('consolidation', 'rate', 'web-4', '0');
    expect(await reading()).toBe(`${contents.vda}  /dev/vda\n${contents.vdb}  /dev/vdb\n`);
    const done = await consolidated(restored);
    await bed.host.libvirt.destroy(copy.dom);
    for (const { target, path } of done.disks) {
      await qemuImgCheck(path);
      expect(await sha256OfImage(path, 'qcow2')).toBe(contents[target as 'vda' | 'vdb']);
    }
    await remove('web-4', pathsOf(done));
  });
});
