import { bundleWorkflowCode, type WorkflowBundleOption } from '@temporalio/worker';
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const ROOT = new URL('..', import.meta.url).pathname;
export const WORKFLOWS_PATH = join(ROOT, 'workflows', 'index.ts');

/**
 * The workflows bundled for the worker's sandbox: made once for each state of their sources, then taken from where Node
 * keeps our compiled code, so that a control worker is back within a second. Without such a folder it is made anew.
 */
export async function workflowBundle(
  workflowsPath = WORKFLOWS_PATH,
  cacheDir = process.env['NODE_COMPILE_CACHE'],
): Promise<WorkflowBundleOption> {
  if (cacheDir === undefined || cacheDir === '') return await bundle(workflowsPath);
  const sources = [dirname(workflowsPath), join(ROOT, 'workflows'), join(ROOT, 'schemas')];
  const codePath = join(cacheDir, `workflows-${await fingerprint(workflowsPath, sources)}.cjs`);
  if (await isThere(codePath)) return { codePath };
  const { code } = await bundle(workflowsPath);
  try {
    await mkdir(cacheDir, { recursive: true });
    const draft = `${codePath}.${randomUUID()}`;
    await writeFile(draft, code);
    await rename(draft, codePath); // whole or not at all: several workers may start at once
    return { codePath };
  } catch {
    return { code }; // a folder that cannot be written to costs only time
  }
}

/** What the bundler tells at every start helps nobody; what is wrong comes as an error. */
const nothing = (): void => undefined;
const logger = { log: nothing, trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };

const bundle = async (workflowsPath: string) => await bundleWorkflowCode({ workflowsPath, logger });

/** Changes with every source the bundle may be made of, and with the bundler. */
async function fingerprint(workflowsPath: string, folders: string[]): Promise<string> {
  const { version } = createRequire(import.meta.url)('@temporalio/worker/package.json') as { version: string };
  const hash = createHash('sha256').update(`${version} ${process.version} ${workflowsPath}`);
  for (const folder of new Set(folders)) {
    for (const name of (await readdir(folder, { recursive: true })).toSorted()) {
      if (name.endsWith('.ts')) hash.update(name).update(await readFile(join(folder, name)));
    }
  }
  return hash.digest('hex').slice(0, 32);
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
