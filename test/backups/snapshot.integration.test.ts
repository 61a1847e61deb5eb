import { readdir, utimes } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { Backup } from '../../schemas/backup.ts';
import { overlayPath } from '../../schemas/delta.ts';
import { checkpointName } from '../../schemas/names.ts';
import { startGuest, stopGuest, type Guest } from '../support/guest.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { run } from '../support/run.ts';
import { expectOnOverlaysOf, writeStopped } from '../support/snapshot-vm.ts';
import {
  expectStored,
  kindsOf,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const SNAPSHOT = { strategy: 'snapshot' } as const;

describe('strategy snapshot', () => {
  let bed: TestBed;
  beforeAll(async () => {
    bed = await startTestBed('kvm-snap');
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const rawGuest = (name: string): Promise<Guest> =>
    bed.guest({ name, disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'raw', fs: 'none' }] });
  const finish = (vm: string) => bed.holdfast.json<{ chains: string[]; left: string | null }>('chain', 'finish', vm);
  const onOwnImages = (guest: Guest, state?: 'running' | 'shutoff') => expectOnOverlaysOf(guest, null, state);
  const captures = () => readdir(join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'captures'));

  it('takes a running VM with raw and qcow2 disks in increments, and leaves it on its own images at the end', async () => {
    const guest = await bed.guest({
      name: 'raw-1',
      disks: [
        { target: 'vda', sizeBytes: 64 * MiB, format: 'raw', fs: 'none' },
        { target: 'vdb', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'none', serial: 'B' },
      ],
    });
    await startGuest(guest);
    const vda = new PatternedDisk(0, 64 * MiB);
    const vdb = new PatternedDisk(1, 32 * MiB);
    await vda.write(guest, 0, 8 * MiB, 1);
    await vdb.write(guest, 4 * MiB, 4 * MiB, 2);

    const full = await bed.take('raw-1', SNAPSHOT);
    expect(kindsOf(full)).toEqual({ vda: 'full: first-backup', vdb: 'full: first-backup' });
    await expectStored(bed.holdfast, full, { vda, vdb });
    await expectOnOverlaysOf(guest, full);

    await vda.write(guest, 2 * MiB, MiB, 3);
    await vda.write(guest, 5 * MiB, MiB, 0); // zeroes hide what the parent has there
    await vdb.write(guest, 30 * MiB, MiB, 4);
    const second = await bed.take('raw-1', SNAPSHOT);
    expect(kindsOf(second)).toEqual({ vda: 'incremental', vdb: 'incremental' });
    expect(second.disks.map(({ changedBytes }) => changedBytes)).toEqual([2 * MiB, MiB]);
    await expectStored(bed.holdfast, second, { vda, vdb });
    await expectOnOverlaysOf(guest, second);

    await vda.write(guest, 3 * MiB, MiB, 5);
    const third = await bed.take('raw-1', SNAPSHOT);
    expect(third.disks.map(({ changedBytes }) => changedBytes)).toEqual([MiB, 0]);
    await expectStored(bed.holdfast, third, { vda, vdb });
    await expectOnOverlaysOf(guest, third);

    expect(await finish('raw-1')).toMatchObject({ chains: [full.id], left: null });
    await onOwnImages(guest);
    expect(await sha256OfImage(guest.disks[0]!.path, 'raw')).toBe(vda.sha256);
    expect(await captures()).toEqual([]);
  });

  it('leaves no overlay at the end of a chain, and keeps the one there is through an isolated backup', async () => {
    const guest = await rawGuest('raw-2');
    await startGuest(guest);
    const vda = new PatternedDisk(0, 64 * MiB);
    await vda.write(guest, 0, 4 * MiB, 1);
    const full = await bed.take('raw-2', { ...SNAPSHOT, chainSize: 2 });
    await vda.write(guest, MiB, MiB, 2);
    const isolated = await bed.take('raw-2', { ...SNAPSHOT, isolated: true });
    expect(isolated).toMatchObject({ type: 'full', isolated: true, parentId: null });
    await expectStored(bed.holdfast, isolated, { vda });
    await expectOnOverlaysOf(guest, full);

    await vda.write(guest, 2 * MiB, MiB, 3);
    const last = await bed.take('raw-2', { ...SNAPSHOT, chainSize: 2 });
    expect(last).toMatchObject({ type: 'incremental', parentId: full.id, endOfChain: true });
    expect(last.disks[0]?.changedBytes).toBe(2 * MiB);
    await expectStored(bed.holdfast, last, { vda });
    await onOwnImages(guest);

    const again = await bed.take('raw-2', { ...SNAPSHOT, chainSize: 2 });
    expect(kindsOf(again)).toEqual({ vda: 'full: chain-size-reached' });
    const other = await bed.take('raw-2'); // by checkpoints, which raw disks cannot hold
    expect(kindsOf(other)).toEqual({ vda: 'full: format-without-bitmaps' });
    await expectStored(bed.holdfast, other, { vda });
    await onOwnImages(guest);
  });

  it('takes a stopped VM, goes on when it runs, and when it is stopped again', async () => {
    const guest = await rawGuest('raw-3');
    const [disk] = guest.disks;
    const vda = new PatternedDisk(0, 64 * MiB);
    await run('qemu-io', ['-f', 'raw', '-c', 'write -q -P 1 0 4M', disk!.path]);
    vda.note(0, 4 * MiB, 1);
    const full = await bed.take('raw-3', SNAPSHOT);
    expect(full).toMatchObject({ type: 'full', consistency: 'stopped' });
    await expectStored(bed.holdfast, full, { vda });
    await expectOnOverlaysOf(guest, full, 'shutoff');

    await writeStopped(overlayPath(disk!.path, full.id), vda, MiB, MiB, 2);
    const second = await bed.take('raw-3', SNAPSHOT);
    expect(kindsOf(second)).toEqual({ vda: 'incremental' });
    expect(second.disks[0]?.changedBytes).toBe(MiB);
    await expectStored(bed.holdfast, second, { vda });
    await expectOnOverlaysOf(guest, second, 'shutoff');

    await startGuest(guest);
    await vda.write(guest, 8 * MiB, MiB, 3);
    const third = await bed.take('raw-3', SNAPSHOT);
    expect(kindsOf(third)).toEqual({ vda: 'incremental' });
    await expectStored(bed.holdfast, third, { vda });
    await expectOnOverlaysOf(guest, third);

    await stopGuest(guest);
    await writeStopped(overlayPath(disk!.path, third.id), vda, 9 * MiB, MiB, 4);
    const fourth = await bed.take('raw-3', SNAPSHOT);
    expect(fourth.disks[0]?.changedBytes).toBe(MiB);
    await expectStored(bed.holdfast, fourth, { vda });
    await finish('raw-3');
    await onOwnImages(guest, 'shutoff');
    expect(await sha256OfImage(disk!.path, 'raw')).toBe(vda.sha256);
    await startGuest(guest); // it boots from what is left
  });

  it("copies the user's snapshots along, into one file, and leaves them as they are", async () => {
    const guest = await rawGuest('raw-4');
    await startGuest(guest);
    const [disk] = guest.disks;
    const vda = new PatternedDisk(0, 64 * MiB);
    await vda.write(guest, 0, 4 * MiB, 1);
    const full = await bed.take('raw-4', SNAPSHOT);
    await vda.write(guest, 0, MiB, 2);
    const frozen = overlayPath(disk!.path, full.id);
    const users = join(guest.dir, 'users.qcow2');
    await guest.libvirt.snapshotCreate(
      guest.dom,
      `<domainsnapshot><name>mine</name><disks><disk name='vda' snapshot='external'><source file='${users}'/></disk></disks></domainsnapshot>`,
      { diskOnly: true, atomic: true },
    );
    await vda.write(guest, 2 * MiB, MiB, 3);

    const second = await bed.take('raw-4', SNAPSHOT);
    expect(kindsOf(second)).toEqual({ vda: 'incremental' });
    expect(second.disks[0]?.changedBytes).toBe(2 * MiB);
    await expectStored(bed.holdfast, second, { vda });
    await vda.write(guest, 3 * MiB, MiB, 4);
    const third = await bed.take('raw-4', SNAPSHOT);
    expect(third.disks[0]?.changedBytes).toBe(MiB);
    await expectStored(bed.holdfast, third, { vda });
    const images = (): Promise<string[]> =>
      guest.libvirt.domainXml(guest.dom).then((xml) => {
        const [vdaNow] = parseDomainXml(xml).disks;
        return [vdaNow?.sourcePath ?? '', ...(vdaNow?.backingChain ?? []).map(({ path }) => path ?? '')];
      });
    expect(await images()).toEqual([overlayPath(users, third.id), users, frozen, disk!.path]);

    expect((await finish('raw-4')).left).toMatch(/stays for now: a snapshot goes back to it/);
    expect(await images()).toEqual([users, frozen, disk!.path]);
    expect(await guest.libvirt.snapshotList(guest.dom)).toEqual(['mine']);

    await guest.libvirt.snapshotDelete(guest.dom, 'mine', { metadataOnly: true });
    await run('virsh', ['-c', `qemu+unix:///system?socket=${bed.host.socketPath}`, 'blockcommit', guest.name, 'vda', '--active', '--shallow', '--pivot', '--wait']); // prettier-ignore
    await run('rm', [users]);
    expect((await finish('raw-4')).left).toBeNull();
    await onOwnImages(guest);
    expect(await sha256OfImage(disk!.path, 'raw')).toBe(vda.sha256);
  });

  it('copies in full, and says why, what was reverted, changed behind its back, or marked otherwise', async () => {
    const guest = await rawGuest('raw-5');
    const [disk] = guest.disks;
    const vda = new PatternedDisk(0, 64 * MiB);
    await run('qemu-io', ['-f', 'raw', '-c', 'write -q -P 1 0 4M', disk!.path]);
    vda.note(0, 4 * MiB, 1);
    const first = await bed.take('raw-5', SNAPSHOT);
    await writeStopped(overlayPath(disk!.path, first.id), new PatternedDisk(0, 64 * MiB), 0, MiB, 9);
    const xml = await guest.libvirt.domainXml(guest.dom, { inactive: true, secure: true });
    await guest.libvirt.define(rewriteDomainXml(xml, { disks: { vda: { path: disk!.path, format: 'raw' } } }));
    const abandoned = overlayPath(disk!.path, first.id);
    const reverted = await bed.take('raw-5', SNAPSHOT);
    expect(kindsOf(reverted)).toEqual({ vda: 'full: snapshot-reverted' });
    await expectStored(bed.holdfast, reverted, { vda });
    await expectOnOverlaysOf(guest, reverted, 'shutoff', { otherFiles: [basename(abandoned)] });
    const longAgo = Date.now() / 1000 - 2 * 86_400;
    await utimes(abandoned, longAgo, longAgo);

    await writeStopped(disk!.path, vda, 32 * MiB, MiB, 7, 'raw');
    const changed = await bed.take('raw-5', SNAPSHOT);
    expect(kindsOf(changed)).toEqual({ vda: 'full: image-changed' });
    await expectStored(bed.holdfast, changed, { vda });
    await expectOnOverlaysOf(guest, changed, 'shutoff');

    const removed = await bed.holdfast.cli('backup', 'delete', changed.id, '--json');
    expect(removed.exitCode, removed.stderr).toBe(0);
    const next = await bed.take('raw-5', SNAPSHOT);
    expect(next.type).toBe('full');
    await expectOnOverlaysOf(guest, next, 'shutoff');
    await expectStored(bed.holdfast, next, { vda });
  });

  it('restores in place, onto the own image, and as a new VM', async () => {
    const guest = await rawGuest('raw-6');
    await startGuest(guest);
    const vda = new PatternedDisk(0, 64 * MiB);
    await vda.write(guest, 0, 4 * MiB, 1);
    await bed.take('raw-6', SNAPSHOT);
    await vda.write(guest, MiB, MiB, 2);
    const second = await bed.take('raw-6', SNAPSHOT);
    const wanted = vda.sha256;
    await vda.write(guest, 0, MiB, 9);
    const copy = await bed.restore(second.id, { as: 'raw-6-copy' });
    expect(await sha256OfImage(copy.disks[0]!.path, 'raw')).toBe(wanted);
    await stopGuest(guest);
    const restored = await bed.restore(second.id);
    expect(restored.disks[0]?.path).toBe(guest.disks[0]?.path);
    expect(await sha256OfImage(restored.disks[0]!.path, 'raw')).toBe(wanted);
    const definition = parseDomainXml(await guest.libvirt.domainXml(guest.dom, { inactive: true }));
    expect(definition.disks[0]).toMatchObject({ sourcePath: guest.disks[0]?.path, format: 'raw' });
    const next = await bed.take('raw-6', SNAPSHOT);
    expect(kindsOf(next)).toEqual({ vda: 'full: disk-replaced' });
    await expectOnOverlaysOf(guest, next, 'shutoff', { otherFiles: [/^raw-6-copy/] });
  });

  it('goes from one strategy to the other and back, in full, and leaves nothing of the former', async () => {
    const guest = await bed.guest({
      name: 'both',
      disks: [{ target: 'vda', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await startGuest(guest);
    const vda = new PatternedDisk(0, 32 * MiB);
    await vda.write(guest, 0, 4 * MiB, 1);
    await bed.take('both');
    await vda.write(guest, MiB, MiB, 2);
    const overlaid = await bed.take('both', SNAPSHOT);
    expect(kindsOf(overlaid)).toEqual({ vda: 'full: strategy-changed' });
    await expectStored(bed.holdfast, overlaid, { vda });
    await expectOnOverlaysOf(guest, overlaid); // and without a checkpoint
    await vda.write(guest, 2 * MiB, MiB, 3);
    const marked = await bed.take('both');
    expect(kindsOf(marked)).toEqual({ vda: 'full: strategy-changed' });
    await expectStored(bed.holdfast, marked, { vda });
    await expectOnOverlaysOf(guest, null, 'running', { checkpoints: [checkpointName(marked.id)] });
    await vda.write(guest, 3 * MiB, MiB, 4);
    const next = await bed.take('both');
    expect(kindsOf(next)).toEqual({ vda: 'incremental' });
    await expectStored(bed.holdfast, next, { vda });
  });

  it('freezes the guest, and gives a detached disk what was written to it', async () => {
    const guest = await bed.guest({
      name: 'det',
      disks: [
        { target: 'vda', sizeBytes: 64 * MiB, format: 'raw', fs: 'ext4' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', fs: 'none' },
      ],
    });
    await startGuest(guest);
    const vdb = new PatternedDisk(1, 16 * MiB);
    await vdb.write(guest, 0, 4 * MiB, 1);
    const frozen = await bed.take('det', { ...SNAPSHOT, quiesce: 'require' });
    expect(frozen.consistency).toBe('application');
    await expectOnOverlaysOf(guest, frozen);
    await vdb.write(guest, MiB, MiB, 2);
    await stopGuest(guest);
    const xml = await guest.libvirt.domainXml(guest.dom, { inactive: true, secure: true });
    await guest.libvirt.define(rewriteDomainXml(xml, { removeDisks: ['vdb'] }));
    const without = await bed.take('det', SNAPSHOT);
    expect(kindsOf(without)).toEqual({ vda: 'incremental' });
    const [, detached] = guest.disks;
    expect(await sha256OfImage(detached!.path, 'raw')).toBe(vdb.sha256);
    expect((await readdir(guest.dir)).toSorted()).toEqual(
      [
        ...guest.disks.map(({ path }) => basename(path)),
        basename(overlayPath(guest.disks[0]!.path, without.id)),
      ].toSorted(),
    );
  });

  it('refuses what it cannot protect, naming the remedy', async () => {
    const guest = await bed.guest({
      name: 'raw-7',
      disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'raw', fs: 'none' }],
    });
    const xml = await guest.libvirt.domainXml(guest.dom, { inactive: true });
    await guest.libvirt.define(xml.replace("<target dev='vda'", "<shareable/><target dev='vda'"));
    await expect(bed.take('raw-7', SNAPSHOT)).rejects.toThrow(/SnapshotUnsupported: disk vda of VM raw-7 is shared/);
    await expect(resultOf<Backup>(await bed.start('normalizeVm', { vm: 'raw-7' }))).resolves.toMatchObject({
      left: [],
    });
    await onOwnImages(guest, 'shutoff');
  });
});
