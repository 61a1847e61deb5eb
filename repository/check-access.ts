import { randomUUID } from 'node:crypto';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { REPOSITORY_FILE } from './layout.ts';

export interface AccessCheck {
  act: 'read' | 'write' | 'upload' | 'list' | 'delete';
  /** Why it failed; null when it did not, undefined when it was not tried because an earlier one failed. */
  problem: BlobStoreError | null | undefined;
}

/**
 * Tries all that backups will need of a store, with two small blobs that are gone afterwards: to read, to write a blob that was not
 * there, to begin an upload, to list and to delete. Where they cannot be deleted, the problem of `delete` names what stays.
 */
export async function checkAccess(store: BlobStore): Promise<AccessCheck[]> {
  const folder = `access-check-${randomUUID()}/`; // so that listing what was written does not list the repository
  const key = `${folder}blob`;
  const upload = `${folder}upload`;
  const content = Buffer.from('holdfast tries what it may do here\n');
  /** Also what a request was sent for and no answer came. */
  const written: string[] = [];
  const acts: Record<AccessCheck['act'], () => Promise<void>> = {
    async read() {
      await store.getBlob(REPOSITORY_FILE).catch((error: unknown) => {
        if (!(error instanceof BlobStoreError) || error.code !== 'not-found') throw error;
      });
    },
    async write() {
      written.push(key);
      await store.putBlob(key, content);
      const read = await store.getBlob(key);
      if (read.equals(content)) return;
      throw new BlobStoreError('unavailable', `${key} does not hold what was just written to it`, { key });
    },
    async upload() {
      written.push(upload);
      const begun = await store.createUpload(upload, { expectedBytes: 0 });
      await begun.finish(0);
    },
    async list() {
      for await (const blob of store.listBlobs(folder)) if (blob.key === key) return;
      throw new BlobStoreError('unavailable', `${key} was written and is not listed`, { key });
    },
    async delete() {
      await removeAll(store, written);
    },
  };
  const checks: AccessCheck[] = [];
  let isRefused = false;
  for (const [act, attempt] of Object.entries(acts) as [AccessCheck['act'], () => Promise<void>][]) {
    // What was written goes, also when something between does not work.
    const isTried: boolean = !isRefused || (act === 'delete' && written.length > 0);
    const problem: AccessCheck['problem'] = isTried ? await problemOf(attempt) : undefined;
    isRefused ||= problem !== null;
    checks.push({ act, problem });
  }
  return checks;
}

/** @throws BlobStoreError why a blob cannot be removed, naming all that stay */
async function removeAll(store: BlobStore, keys: readonly string[]): Promise<void> {
  let reason: BlobStoreError | undefined;
  const kept: string[] = [];
  for (const key of keys) {
    const problem = await problemOf(() => store.deleteBlob(key));
    // Where even that is refused it may be there.
    const isThere = (await store.statBlob(key).catch(() => key)) !== undefined;
    if (isThere) kept.push(key);
    reason ??= problem ?? (isThere ? stillThere(key) : undefined);
  }
  if (reason === undefined) return;
  const what = kept.length === 0 ? '' : `; left behind by this check, and to be removed by hand: ${kept.join(', ')}`;
  throw new BlobStoreError(reason.code, `${reason.message}${what}`, { cause: reason });
}

const stillThere = (key: string): BlobStoreError =>
  new BlobStoreError('denied', `${key} was deleted and is still there`, { key });

async function problemOf(attempt: () => Promise<void>): Promise<BlobStoreError | null> {
  try {
    await attempt();
    return null;
  } catch (error) {
    if (error instanceof BlobStoreError) return error;
    throw error;
  }
}

/**
 * Gives the acts that were tried.
 * @throws BlobStoreError of the first act that failed, naming it, and what the check could not remove again
 */
export async function requireAccess(store: BlobStore): Promise<AccessCheck['act'][]> {
  const checks = await checkAccess(store);
  const failed = checks.flatMap(({ act, problem }) => (problem ? [{ act, problem }] : []));
  const [first] = failed;
  if (first === undefined) return checks.map(({ act }) => act);
  const told = failed.map(({ act, problem }) => `the check of ${act} access failed: ${problem.message}`);
  throw new BlobStoreError(first.problem.code, told.join('; '), { cause: first.problem });
}
