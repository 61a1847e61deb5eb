import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Waits until this process is the only one that holds the lock file. A host has one worker: two would both take
 * the copies of one backup. A lock whose process is gone is taken over.
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
    if (!told) log(`waiting: process ${pid} is the worker of this host already`);
    told = true;
    await sleep(1000, undefined, { signal });
  }
}

/** Process id and start time, so that a reused id is not taken for the holder. Source: proc(5), stat, field 22 */
async function identityOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z') return '';
  return stat === '' ? '' : `${pid} ${fields[19] ?? ''}`;
}
