import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { identityOf } from '../activities/process-identity.ts';

/**
 * Waits until this process is the only one that holds the lock file. A host has one worker: two would both take
 * the copies of one backup. A lock whose process is gone is taken over. The file holds the process's `identityOf`.
 */
export async function holdAlone(
  path: string,
  signal: AbortSignal,
  log: (line: string) => void,
): Promise<AsyncDisposable> {
  // QEMU runs as a user of its own and passes through here to its scratch files; what is ours is closed by itself.
  await mkdir(dirname(path), { recursive: true, mode: 0o711 });
  const mine = await identityOf(process.pid);
  for (let told = false; ;) {
    try {
      await using file = await open(path, 'wx', 0o600);
      await file.writeFile(mine);
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    }
    const holder = await readFile(path, 'utf8').catch(() => '');
    const [pid] = holder.split(' ');
    if (holder === '' || (await identityOf(Number(pid))) !== holder) {
      await rm(path, { force: true });
      continue;
    }
    if (!told) log(`waiting: process ${pid} does this already`);
    told = true;
    await sleep(1000, undefined, { signal });
  }
}
