import { readdir, readFile, readlink, stat } from 'node:fs/promises';

/**
 * The folder under which the libvirt daemon behind a unix socket sees its files: "/", or `/proc/<pid>/root` when it has
 * a mount namespace of its own, as in a container. Needs root for the second; without it "/" is taken.
 * Source: proc(5), `/proc/net/unix` (inode in the seventh column), `/proc/<pid>/fd`, `/proc/<pid>/root`
 */
export async function daemonRootOf(socketPath: string): Promise<string> {
  const pid = await listenerOf(socketPath);
  if (pid === undefined) return '/';
  const [ours, theirs] = await Promise.all([
    readlink('/proc/self/ns/mnt').catch(() => undefined),
    readlink(`/proc/${pid}/ns/mnt`).catch(() => undefined),
  ]);
  return theirs === undefined || ours === theirs ? '/' : `/proc/${pid}/root`;
}

async function listenerOf(socketPath: string): Promise<string | undefined> {
  const inodes = new Set<string>();
  for (const line of (await readFile('/proc/net/unix', 'utf8')).split('\n')) {
    const [, , , flags, , , inode, path] = line.trim().split(/\s+/);
    // The daemon may know its socket under another path than ours: compare the file's name and folder's name.
    if (inode !== undefined && path !== undefined && flags === '00010000' && sameSocket(path, socketPath))
      inodes.add(inode);
  }
  if (inodes.size === 0) return undefined;
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const descriptor of descriptors) {
      const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '');
      if (target.startsWith('socket:[') && inodes.has(target.slice(8, -1))) {
        if (await seesSocket(pid, socketPath)) return pid;
      }
    }
  }
  return undefined;
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
const sameSocket = (theirs: string, ours: string): boolean => theirs === ours || nameOf(theirs) === nameOf(ours);

/** Several daemons may listen under one name, each in its own namespace: ours is the one whose socket file is this one. */
async function seesSocket(pid: string, socketPath: string): Promise<boolean> {
  const [ours, ...theirs] = await Promise.all(
    [socketPath, `/proc/${pid}/root${socketPath}`, `/proc/${pid}/root/run/libvirt/${nameOf(socketPath)}`].map((path) =>
      stat(path).catch(() => undefined),
    ),
  );
  return (
    ours !== undefined && theirs.some((info) => info !== undefined && info.ino === ours.ino && info.dev === ours.dev)
  );
}
