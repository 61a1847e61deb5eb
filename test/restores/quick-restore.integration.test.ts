import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from '../support/disk-content.ts';
import { findGuest, stopGuest, waitForAgent, type Guest } from '../support/guest.ts';
import { MiB, PatternedDisk, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';

const SIZE = 96 * MiB;

describe('a quick restore', () => {
  let bed: TestBed;
  let guest: Guest;
  let last: Backup;
  const vda = new PatternedDisk(0, SIZE);
  const vdb = new PatternedDisk(1, SIZE);

  beforeAll(async () => {
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
  });

  const consolidated = async ({ consolidation }: RestoredVm): Promise<ConsolidatedVm> =>
    await resultOf((await bed.holdfast.client()).workflow.getHandle(consolidation ?? ''));

  it('as a new VM boots at once, keeps what its guest writes, and ends with disks that depend on nothing', async () => {
    const startedMs = Date.now();
    const restored = await bed.restore(last.id, { as: 'web-2', quick: true, rateMBps: 40 });
    const copy = await findGuest(bed.host, 'web-2');
    const bootedMs = Date.now();
    await waitForAgent(copy);
    console.log('returned', bootedMs - startedMs, 'agent', Date.now() - startedMs);
    expect(restored.disks.map(({ verified }) => verified)).toEqual([false, false]);
    const mine = { vda: vda.as(0), vdb: vdb.as(1) };
    await mine.vda.write(copy, 30 * MiB, 2 * MiB, 0x21);
    await mine.vdb.write(copy, 80 * MiB, 2 * MiB, 0x22);
    const done = await consolidated(restored);
    expect(done.disks.map(({ verified }) => verified)).toEqual([true, true]);
    const paths = Object.fromEntries(done.disks.map(({ target, path }) => [target, path]));
    await expectVmClean(copy, 'web-2', {
      activeImages: paths,
      otherFiles: guest.disks.map(({ path }) => path.split('/').at(-1) ?? ''),
    });
    await stopGuest(copy);
    for (const [target, path] of Object.entries(paths)) {
      await qemuImgCheck(path);
      expect((await qemuImgInfo(path)).backingFile).toBeNull();
      expect(await sha256OfImage(path, 'qcow2')).toBe(mine[target as 'vda' | 'vdb'].sha256);
    }
    const { disks } = parseDomainXml(await bed.host.libvirt.domainXml(copy.dom, { inactive: true }));
    expect(disks.flatMap(({ backingChain }) => backingChain)).toEqual([]);
    await bed.host.libvirt.undefine(copy.dom);
    for (const path of Object.values(paths)) await rm(path);
  });
});
