import { basename } from 'node:path';
import { expect } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup } from '../../schemas/backup.ts';
import { overlayPath } from '../../schemas/delta.ts';
import { expectVmClean, type ExpectedVm } from './clean-vm.ts';
import { guestShell, type Guest } from './guest.ts';
import { run } from './run.ts';
import type { PatternedDisk } from './test-bed.ts';

/** Each disk of the VM lies on exactly the overlay of `backup`; with null, it is on its own image again. */
export async function expectOnOverlaysOf(
  guest: Guest,
  backup: Backup | null,
  state: 'running' | 'shutoff' = 'running',
  expected: Partial<ExpectedVm> = {},
): Promise<void> {
  const images = guest.disks.map(({ target, path }) => [target, backup === null ? path : overlayPath(path, backup.id)]);
  const activeImages = Object.fromEntries(images) as Record<string, string>;
  const otherFiles = [...guest.disks.map(({ path }) => basename(path)), ...(expected.otherFiles ?? [])];
  await expectVmClean(guest, guest.name, { ...expected, activeImages, state, otherFiles });
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

/** Writes into an image of a stopped VM. */
export async function writeStopped(
  image: string,
  disk: PatternedDisk,
  offset: number,
  length: number,
  pattern: number,
  format = 'qcow2',
): Promise<void> {
  await run('qemu-io', ['-f', format, '-c', `write -q -P ${pattern} ${offset} ${length}`, image]);
  disk.note(offset, length, pattern);
}
