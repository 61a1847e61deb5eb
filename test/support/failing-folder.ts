import { spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { endProcess, until } from './processes.ts';
import { run } from './run.ts';

/** A folder on a file system of its own, whose medium can be made to fail every read with EIO, and to work again. */
export interface FailingFolder extends AsyncDisposable {
  readonly path: string;
  fail(): Promise<void>;
  heal(): Promise<void>;
}

/** ext4 on a loop device on a file that nbdkit serves: its filter fails the reads. Past all caches, so that they fail at once. */
export async function failingFolder(dir: string, sizeMiB: number): Promise<FailingFolder> {
  const [image, served, path, trigger] = ['image', 'served', 'folder', 'fail'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
    string,
  ];
  for (const folder of [dir, served, path]) await mkdir(folder, { recursive: true });
  await run('truncate', ['-s', `${sizeMiB}M`, image]);
  await run('/sbin/mkfs.ext4', ['-q', '-F', image]);
  const nbdkit = ['nbdkit', '-s', '--filter=error', 'file', image, 'error-pread-rate=100%', `error-file=${trigger}`];
  const server = spawn('nbdfuse', [`${served}/`, '--command', ...nbdkit], { stdio: 'ignore' });
  await until('nbdfuse serves the image', () => existsSync(join(served, 'nbd')));
  const loop = await run('losetup', ['--direct-io=on', '-f', '--show', join(served, 'nbd')]);
  const device = loop.stdout.toString().trim();
  await run('mount', [device, path]);
  return {
    path,
    fail: () => writeFile(trigger, ''),
    heal: () => rm(trigger, { force: true }),
    async [Symbol.asyncDispose]() {
      await rm(trigger, { force: true });
      // Lazily: hosts of other tests have copies of the mounts in their namespaces, until they end.
      await run('mount', ['-o', 'remount,ro', path]);
      await run('umount', ['-l', path]);
      await run('losetup', ['-d', device]);
      await run('umount', ['-l', served]);
      if (server.pid !== undefined) await endProcess(server.pid);
    },
  };
}
