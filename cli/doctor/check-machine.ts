import { access, constants, open } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { hasKernel, INSTALL_HINT, KERNEL_HINT } from '../../files/guestfish.ts';
import { qemuAcceptsKvm } from '../../operations/qemu-accepts-kvm.ts';
import { fail, ok, warn, type Check } from './check.ts';

const TOOLS = ['qemu-img', 'qemu-nbd'];

/** QEMU's tools on the PATH. */
export const checkTools: Check = async () => {
  const missing: string[] = [];
  for (const tool of TOOLS) if (!(await onPath(tool))) missing.push(tool);
  if (missing.length === 0) return [ok('tools', TOOLS.join(', '))];
  return [fail('tools', `${missing.join(', ')} not on the PATH; on Debian and Ubuntu: apt-get install qemu-utils`)];
};

async function onPath(tool: string): Promise<boolean> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const isThere = await access(join(folder, tool), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return true;
  }
  return false;
}

/** What `backup files` reads file systems with. Backups and restores do without. */
export const checkFiles: Check = async () => {
  if (!(await onPath('guestfish'))) {
    return [warn('files', `guestfish is not on the PATH, which only backup files needs; ${INSTALL_HINT}`)];
  }
  if (await hasKernel()) return [ok('files', 'guestfish, with a kernel for its small VM')];
  return [warn('files', `libguestfs finds no kernel that you may read, which backup files needs; ${KERNEL_HINT}`)];
};

/** A /dev/kvm that is there but does not work makes libvirt probe QEMU for a minute at every define. */
export const checkKvm: Check = async () => {
  try {
    await (await open('/dev/kvm', constants.O_RDWR)).close();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if (code === 'ENOENT') return [warn('kvm', 'no /dev/kvm: VMs run, but slowly; backups work all the same')];
    return [
      warn(
        'kvm',
        `/dev/kvm is there but cannot be opened (${code}): libvirt may then take a minute for each definition; load kvm_intel or kvm_amd, or hide the device`,
      ),
    ];
  }
  return (await qemuAcceptsKvm())
    ? [ok('kvm', 'QEMU can use /dev/kvm')]
    : [
        warn(
          'kvm',
          '/dev/kvm can be opened, but QEMU cannot use it: libvirt may then take a minute for each definition; hide the device or mend KVM',
        ),
      ];
};
