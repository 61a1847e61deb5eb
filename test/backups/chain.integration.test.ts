import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkpointName } from '../../schemas/names.ts';
import { createDisk, type Guest } from '../support/guest.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  kindsOf,
  manifestOf,
  MiB,
  PatternedDisk,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const CLUSTER = 64 * 1024;

describe('a chain of a VM with several disks', () => {
  let bed: TestBed;
  let guest: Guest;
  const vda = new PatternedDisk(0, 32 * MiB);
  const vdb = new PatternedDisk(1, 24 * MiB);
  const vdc = new PatternedDisk(2, 8 * MiB);
  beforeAll(async () => {
    bed = await startTestBed('kvm-chain');
    const iso = join(bed.dir, 'medium.iso');
    await createDisk({ path: iso, sizeBytes: MiB, format: 'raw', fs: 'none' });
    guest = await bed.guest({
      name: 'several',
      disks: [
        { target: 'vda', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'none', serial: 'SYSTEM-1' },
        { target: 'vdb', sizeBytes: 24 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vdc', sizeBytes: 8 * MiB, format: 'raw', fs: 'none' },
        { target: 'vdd', sizeBytes: 8 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vde', sizeBytes: 8 * MiB, format: 'qcow2', fs: 'none' },
      ],
      extraXml: `
        <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='${iso}'/>
          <target dev='hda' bus='ide'/><readonly/></disk>
        <disk type='file' device='cdrom'><target dev='hdb' bus='ide'/><readonly/></disk>`,
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 6 * MiB, 0x11);
    await vda.write(guest, 30 * MiB, 2 * MiB, 0x12);
    await vdb.write(guest, 4 * MiB, 3 * MiB, 0x13);
    await vdc.write(guest, MiB, MiB, 0x14);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const images = (): Record<string, string> =>
    Object.fromEntries([...guest.disks.map(({ target, path }) => [target, path] as const)]);

  it('starts with a full, then copies only what changed', async () => {
    const { holdfast } = bed;
    await holdfast.json('offering', 'create', 'without-vdd', '--exclude-disk', 'vdd', '--quiesce', 'none');
    const full = await bed.take('several', { offering: 'without-vdd' });
    expect(full).toMatchObject({ type: 'full', position: 1, parentId: null, consistency: 'crash', state: 'BackedUp' });
    expect(kindsOf(full)).toEqual({
      vda: 'full: first-backup',
      vdb: 'full: first-backup',
      vdc: 'full: format-without-bitmaps',
      vde: 'full: first-backup',
    });
    await expectStored(holdfast, full, { vda, vdb, vdc, vde: new PatternedDisk(4, 8 * MiB) });

    const take = () => bed.take('several', { excludeDisks: ['vdd', 'vde'] });
    await vda.write(guest, 5 * MiB, 3 * CLUSTER, 0x21);
    await vda.write(guest, 20 * MiB + 4096, 4096, 0x22);
    await vda.write(guest, MiB, 2 * CLUSTER, 0); // zeroes over data must hide the parent's
    await vdb.write(guest, 0, CLUSTER, 0x23);
    const first = await take();
    expect(first).toMatchObject({ type: 'incremental', position: 2, parentId: full.id, chainId: full.id });
    expect(kindsOf(first)).toEqual({ vda: 'incremental', vdb: 'incremental', vdc: 'full: format-without-bitmaps' });
    await expectStored(holdfast, first, { vda, vdb, vdc });
    const read = Object.fromEntries(first.disks.map(({ target, readBytes }) => [target, readBytes]));
    expect(read['vda']).toBeLessThanOrEqual(1.02 * 6 * CLUSTER);
    expect(read['vdb']).toBeLessThanOrEqual(1.02 * CLUSTER);

    const second = await take(); // nothing changed
    expect(second.disks.find(({ target }) => target === 'vda')).toMatchObject({ changedBytes: 0, readBytes: 0 });
    await vdb.write(guest, 23 * MiB, MiB, 0x31);
    await vdc.write(guest, 0, 4096, 0x32);
    const third = await take();
    expect(third).toMatchObject({ position: 4, parentId: second.id, chainId: full.id });
    await expectStored(holdfast, third, { vda, vdb, vdc });
    await expectOnlyCheckpointOf(guest, third, { activeImages: images() });
    const manifest = await manifestOf(holdfast, third);
    expect(manifest.skippedDisks.toSorted((a, b) => a.target.localeCompare(b.target))).toEqual([
      { target: 'hda', reason: 'cdrom' },
      { target: 'hdb', reason: 'cdrom' },
      { target: 'vdd', reason: 'excluded' },
      { target: 'vde', reason: 'excluded' },
    ]);
    expect((await manifestOf(holdfast, full)).skippedDisks).toContainEqual({ target: 'vdd', reason: 'excluded' });
    expect(manifest.domainXml.inactive).toContain('<name>several</name>');
    expect(manifest.domainXml.live).toContain("<domain type='qemu' id=");
    expect(manifest.checkpointXml).toContain(checkpointName(third.id));
    expect(Object.keys(manifest.versions).toSorted()).toEqual(['holdfast', 'libvirt', 'node', 'qemu']);
    expect(manifest.disks.find(({ target }) => target === 'vda')).toMatchObject({
      serial: 'SYSTEM-1',
      sourceFormat: 'qcow2',
      backingFile: second.disks.find(({ target }) => target === 'vda')?.file,
    });
  });
});
