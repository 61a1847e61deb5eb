import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml, type DomainDisk } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { guestSha256, guestShell, startGuest, type Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

describe('one disk of a backup, given to a VM', () => {
  let bed: TestBed;
  let source: Guest;
  let target: Guest;
  let backup: Backup;
  const vda = new PatternedDisk(0, 24 * MiB);
  const vdb = new PatternedDisk(1, 16 * MiB);

  beforeAll(async () => {
    bed = await startTestBed('kvm-disk');
    source = await bed.guest({
      name: 'web-1',
      disks: [
        { target: 'vda', sizeBytes: 24 * MiB, format: 'qcow2', fs: 'none', serial: 'ROOT-1' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', fs: 'none' },
      ],
    });
    await bed.host.libvirt.create(source.dom);
    await vda.write(source, 0, 8 * MiB, 0x21);
    await vdb.write(source, MiB, MiB, 0x22);
    await bed.take('web-1');
    await vda.write(source, 4 * MiB, MiB, 0x23);
    backup = await bed.take('web-1');
    await vda.write(source, 0, MiB, 0x24); // what the restore must not bring
    target = await bed.guest({
      name: 'web-2',
      disks: [{ target: 'vda', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'ext4', serial: 'ROOT-1' }],
    });
    await startGuest(target);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const expected = { vda: '', vdb: '' };
  const disksOf = async (vm: Guest, inactive: boolean): Promise<DomainDisk[]> =>
    parseDomainXml(await vm.libvirt.domainXml(vm.dom, { inactive })).disks;
  const diskAt = async (vm: Guest, name: string): Promise<{ live: DomainDisk; config: DomainDisk }> => {
    const find = (disks: DomainDisk[]): DomainDisk => {
      const found = disks.find((disk) => disk.target === name);
      if (found === undefined) throw new Error(`${vm.name} has no disk ${name}`);
      return found;
    };
    return { live: find(await disksOf(vm, false)), config: find(await disksOf(vm, true)) };
  };

  it('comes up in a running VM, with every byte, in its format, under a serial number of its own', async () => {
    expected.vda = await sha256OfImage(bed.holdfast.blob(fileOf(backup, 'vda')), 'qcow2');
    const restored = await bed.holdfast.json<RestoredVm>('restore', backup.id, '--disk', 'vda', '--to-vm', 'web-2');
    const path = join(target.dir, `web-1-vda-${backup.id.slice(0, 8)}.qcow2`);
    expect(restored).toEqual({
      vm: { uuid: target.uuid, name: 'web-2' },
      disks: [{ target: 'vdb', path, verified: true }],
    });
    const { live, config } = await diskAt(target, 'vdb');
    for (const disk of [live, config]) {
      expect(disk).toMatchObject({ sourcePath: path, format: 'qcow2', bus: 'virtio' });
      expect(disk.serial).toBe(`hf-${backup.id.slice(0, 8)}-vda`);
    }
    await until('the guest sees it', async () => (await guestShell(target, 'ls /sys/block')).includes('vdb'));
    expect((await guestShell(target, 'cat /sys/block/vdb/serial')).trim()).toBe(live.serial);
    expect(await guestSha256(target, '/dev/vdb')).toBe(expected.vda);
    await expectVmClean(target, 'web-2', {
      activeImages: { vda: target.disks[0]?.path ?? '', vdb: path },
    });
  });
});

const fileOf = (backup: Backup, target: string): string =>
  backup.disks.find((disk) => disk.target === target)?.file ?? '';
