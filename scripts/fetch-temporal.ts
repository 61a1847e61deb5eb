/**
 * Fetches the Temporal CLI by way of the Temporal SDK: `node scripts/fetch-temporal.ts VERSION DESTINATION`. The SDK's
 * only way to download it is to start a server from it, so this starts one and stops it. Gives up when nothing has
 * arrived for half a minute.
 */
import { chmod, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { TestWorkflowEnvironment } from '@temporalio/testing';

const STALLED_AFTER_MS = 30_000;

const [version, destination] = process.argv.slice(2);
if (version === undefined || destination === undefined) throw new Error('usage: fetch-temporal.ts VERSION DESTINATION');

/** On the file system of the destination, so that the last step is a rename. */
const folder = join(dirname(destination), 'download');

async function downloadedBytes(): Promise<number> {
  const files = await readdir(folder).catch(() => []);
  const sizes = await Promise.all(
    files.map(async (file) => (await stat(join(folder, file)).catch(() => ({ size: 0 }))).size),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Ends the process: the SDK offers no way to break off a download. */
async function endWhenStalled(signal: AbortSignal): Promise<void> {
  let bytes = 0;
  let changedAt = Date.now();
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const now = await downloadedBytes();
    if (now !== bytes) {
      bytes = now;
      changedAt = Date.now();
    } else if (Date.now() - changedAt > STALLED_AFTER_MS) {
      console.error(`no byte of the Temporal CLI arrived for ${STALLED_AFTER_MS / 1000} s`);
      await rm(folder, { recursive: true, force: true });
      process.exit(1);
    }
  }
}

await rm(folder, { recursive: true, force: true });
await mkdir(folder, { recursive: true });
const done = new AbortController();
void endWhenStalled(done.signal);
try {
  const environment = await TestWorkflowEnvironment.createLocal({
    server: { executable: { type: 'cached-download', version, downloadDir: folder } },
  });
  await environment.teardown();
  const [downloaded] = await readdir(folder);
  if (downloaded === undefined) throw new Error('the SDK started a Temporal server from somewhere else');
  await chmod(join(folder, downloaded), 0o755);
  await rename(join(folder, downloaded), destination);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  done.abort();
  await rm(folder, { recursive: true, force: true });
}
