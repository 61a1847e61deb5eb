import { readFile } from 'node:fs/promises';
import { ok, warn, type Check, type Finding } from './check.ts';

const ENABLED = '/sys/module/apparmor/parameters/enabled';
/** What an administrator adds for QEMU. Source: libvirt src/security/apparmor/libvirt-qemu, its last include */
const LOCAL_RULES = '/etc/apparmor.d/local/abstractions/libvirt-qemu';

/** A confined QEMU may not open the backup's socket unless a rule says so. */
export const checkAppArmor: Check = async () => appArmorFindings((path) => readFile(path, 'utf8').catch(() => ''));

export async function appArmorFindings(read: (path: string) => Promise<string>): Promise<Finding[]> {
  if ((await read(ENABLED)).trim() !== 'Y') return [];
  if (/^\s*\/run\/holdfast\//m.test(await read(LOCAL_RULES))) return [ok('apparmor', `${LOCAL_RULES} lets QEMU in`)];
  return [
    warn(
      'apparmor',
      `AppArmor is on and may deny QEMU the backup's socket; add "/run/holdfast/** rw," and the scratch folder to ${LOCAL_RULES}, see docs/operating.md`,
    ),
  ];
}
