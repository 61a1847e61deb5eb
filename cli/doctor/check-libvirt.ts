import { fail, ok, PATIENCE, reason, warn, type Check, type Finding } from './check.ts';

/**
 * What a version brings that backups need. The backup job and checkpoints came before (libvirt 6.0, QEMU 4.2), but work
 * on a running VM with all we ask of them only from the versions here. Source: libvirt NEWS, 6.10.0, 7.2.0, 7.6.0
 */
const LIBVIRT = { pullBackup: '7.2.0', onByDefault: '7.6.0', redefineValidate: '6.10.0' };
const QEMU = { pullBackup: '4.2.0', onByDefault: '6.1.0' };

/** Versions of libvirt and QEMU, and what they allow. */
export const checkVersions: Check = async ({ libvirt }) => {
  let versions;
  try {
    versions = { libvirt: await libvirt.libVersion(PATIENCE), qemu: await libvirt.hypervisorVersion(PATIENCE) };
  } catch (error) {
    return [
      fail(
        'libvirt',
        `${libvirt.address} does not answer: ${reason(error)}. Is libvirtd running? May you use its socket?`,
      ),
    ];
  }
  return [judgeLibvirt(versions.libvirt), judgeQemu(versions.qemu)];
};

export function judgeLibvirt(version: string): Finding {
  if (!isAtLeast(version, LIBVIRT.pullBackup)) {
    return fail(
      'libvirt',
      `${version} is too old for pull-mode backups with checkpoints: update to ${LIBVIRT.pullBackup} or newer`,
    );
  }
  if (!isAtLeast(version, LIBVIRT.onByDefault)) {
    return warn(
      'libvirt',
      `${version}: pull-mode backups are off by default before ${LIBVIRT.onByDefault}; each VM needs <qemu:capabilities><qemu:add capability='incremental-backup'/></qemu:capabilities>, or update`,
    );
  }
  return ok(
    'libvirt',
    `${version}: pull-mode backups, checkpoints, mode per disk, redefinition of checkpoints with a check`,
  );
}

export function judgeQemu(version: string): Finding {
  if (!isAtLeast(version, QEMU.pullBackup)) {
    return fail('qemu', `${version} is too old: incremental backups need ${QEMU.pullBackup} or newer`);
  }
  if (!isAtLeast(version, QEMU.onByDefault)) {
    return warn(
      'qemu',
      `${version}: libvirt trusts its dirty bitmaps only from ${QEMU.onByDefault} on; expect full backups, or update`,
    );
  }
  return ok('qemu', `${version}: dirty bitmaps that survive restarts, NBD exports of a frozen instant`);
}

export function isAtLeast(version: string, wanted: string): boolean {
  const [a, b] = [version, wanted].map((text) => text.split('.').map(Number));
  for (const [index, part] of (b ?? []).entries()) {
    const have = a?.[index] ?? 0;
    if (have !== part) return have > part;
  }
  return true;
}
