import { access, constants, stat } from 'node:fs/promises';
import { fail, ok, reason, warn, type Check } from './check.ts';

/** Whether this user may command libvirt, and not only look. */
export const checkSocket: Check = async ({ socketPath, libvirt }) => {
  if (socketPath === undefined) return [ok('socket', `${libvirt.address}, through SSH`)];
  try {
    const info = await stat(socketPath);
    if (!info.isSocket()) return [fail('socket', `${socketPath} is no socket`)];
    await access(socketPath, constants.R_OK | constants.W_OK);
  } catch (error) {
    return [fail('socket', `${reason(error)}. Start libvirtd, or be root or a member of the group libvirt`)];
  }
  if (socketPath.endsWith('-ro')) return [fail('socket', `${socketPath} is read-only: give the one without -ro`)];
  return [ok('socket', `${socketPath} may be read and written`)];
};

/** Who runs the host worker: it reads QEMU's sockets, and restores write disks. */
export const checkUser: Check = async () => {
  const [uid, gid] = [process.getuid?.() ?? -1, process.getgid?.() ?? -1];
  if (uid === 0) return [ok('user', 'root')];
  return [
    warn(
      'user',
      `user ${uid}, group ${gid}: the host worker must open the sockets and scratch files that QEMU makes, and write disks in a restore; run it as root, or as the user QEMU runs as`,
    ),
  ];
};
