import { readFile, rm, stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { devState } from '../schemas/configuration.ts';
import { isRunning } from '../test/support/processes.ts';
import { stopKvmHost } from '../test/support/kvm-host.ts';
import { devStatePath } from '../workers/installation.ts';
import { endGroup } from './dev-process.ts';
import { placesIn } from './playground.ts';

/** Ends what `--keep` left running and removes its folder; gives what there is to say. */
export async function stopKept(folder: string): Promise<string> {
  const dir = resolve(folder);
  const { dataDir, hostDir } = placesIn(dir);
  // The folder will be removed with all in it: only one that this program made.
  if (!basename(dir).startsWith('hfq-') || !(await isFolder(dataDir)) || !(await isFolder(hostDir))) {
    throw new Error(`${dir} is no folder of the quickstart`);
  }
  const state = await readFile(devStatePath(dataDir), 'utf8').catch(() => undefined);
  if (state !== undefined) {
    const { pid } = devState.parse(JSON.parse(state));
    if (isRunning(pid)) await endGroup(pid);
  }
  await stopKvmHost(hostDir);
  await rm(dir, { recursive: true, force: true, maxRetries: 5 });
  return `ended, and ${dir} is removed`;
}

const isFolder = (path: string): Promise<boolean> =>
  stat(path).then(
    (info) => info.isDirectory(),
    () => false,
  );
