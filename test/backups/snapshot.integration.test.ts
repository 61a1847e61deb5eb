import { readdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { overlayPath } from '../../schemas/delta.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { Guest } from '../support/guest.ts';
import { guestShell, startGuest } from '../support/guest.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { expectStored, kindsOf, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

/** Each disk of the VM has exactly the overlay of `backup`; or none, and is on its own image again. */
async function expectOverlays(guest: Guest, backup: Backup | null, state: 'running' | 'shutoff' = 'running') {
  const images = guest.disks.map(({ target, path }) => [target, backup === null ? path : overlayPath(path, backup.id)]);
  const activeImages = Object.fromEntries(images) as Record<string, string>;
  const own = guest.disks.map(({ path }) => basename(path));
  await expectVmClean(guest, guest.name, { activeImages, state, otherFiles: own });
  const { disks } = parseDomainXml(await guest.libvirt.domainXml(guest.dom, { inactive: true }));
  expect(
    disks.map(({ target, sourcePath, format }) => ({ target, sourcePath, format })),
    'what the VM starts with',
  ).toEqual(
    guest.disks.map(({ target, format }) => ({
      target,
      sourcePath: activeImages[target],
      format: backup === null ? format : 'qcow2',
    })),
  );
  if (state === 'running') expect(await guestShell(guest, 'echo alive')).toBe('alive\n');
}

describe('strategy snapshot', () => {
  let bed: TestBed;
  beforeAll(async () => {
    bed = await startTestBed('kvm-snap');
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

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

    const full = await bed.take('raw-1', { strategy: 'snapshot' });
    expect(kindsOf(full)).toEqual({ vda: 'full: first-backup', vdb: 'full: first-backup' });
    await expectStored(bed.holdfast, full, { vda, vdb });
    await expectOverlays(guest, full);

    await vda.write(guest, 2 * MiB, MiB, 3);
    await vdb.write(guest, 30 * MiB, MiB, 4);
    const second = await bed.take('raw-1', { strategy: 'snapshot' });
    expect(kindsOf(second)).toEqual({ vda: 'incremental', vdb: 'incremental' });
    expect(second.disks.map(({ changedBytes }) => changedBytes)).toEqual([MiB, MiB]);
    await expectStored(bed.holdfast, second, { vda, vdb });
    await expectOverlays(guest, second);

    await vda.write(guest, 3 * MiB, MiB, 5);
    const third = await bed.take('raw-1', { strategy: 'snapshot' });
    expect(kindsOf(third)).toEqual({ vda: 'incremental', vdb: 'incremental' });
    expect(third.disks.map(({ changedBytes }) => changedBytes)).toEqual([MiB, 0]);
    await expectStored(bed.holdfast, third, { vda, vdb });
    await expectOverlays(guest, third);

    await bed.holdfast.json('chain', 'finish', 'raw-1');
    await expectOverlays(guest, null);
    expect(await readdir(dirname(guest.disks[0]!.path))).toHaveLength(2);
  });
});
