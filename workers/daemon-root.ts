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
  const boundPaths = new Map<string, string>(); // by inode of the socket, as its daemon calls it
  for (const line of (await readFile('/proc/net/unix', 'utf8')).split('\n')) {
    const [, , , flags, , , inode, path] = line.trim().split(/\s+/);
    if (inode !== undefined && path?.startsWith('/') === true && flags === '00010000') boundPaths.set(inode, path);
  }
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const descriptor of descriptors) {
      const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '');
      const bound = target.startsWith('socket:[') ? boundPaths.get(target.slice(8, -1)) : undefined;
      if (bound !== undefined && (await isSameFile(`/proc/${pid}/root${bound}`, socketPath))) return pid;
    }
  }
  return undefined;
}

/** Several daemons may listen under one name, each in its own namespace: ours is the one whose socket file is this one. */
async function isSameFile(theirs: string, ours: string): Promise<boolean> {
  const [one, other] = await Promise.all([theirs, ours].map((path) => stat(path).catch(() => undefined)));
  return one !== undefined && other !== undefined && one.ino === other.ino && one.dev === other.dev;
}
