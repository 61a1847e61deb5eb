import { randomUUID } from 'node:crypto';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { REPOSITORY_FILE } from './layout.ts';

export interface AccessCheck {
  act: 'read' | 'write' | 'upload' | 'list' | 'delete';
  /** Why it failed; null when it did not, undefined when it was not tried because an earlier one failed. */
  problem: BlobStoreError | null | undefined;
}

/**
 * Tries all that backups will need of a store, with a small blob that is gone afterwards: to read, to write a blob that was not there,
 * to begin an upload, to list and to delete.
 */
export async function checkAccess(store: BlobStore): Promise<AccessCheck[]> {
  const folder = `access-check-${randomUUID()}/`; // so that listing what was written does not list the repository
  const key = `${folder}blob`;
  const upload = `${folder}upload`;
  const content = Buffer.from('holdfast tries what it may do here\n');
  const acts: Record<AccessCheck['act'], () => Promise<void>> = {
    async read() {
      await store.getBlob(REPOSITORY_FILE).catch((error: unknown) => {
        if (!(error instanceof BlobStoreError) || error.code !== 'not-found') throw error;
      });
    },
    async write() {
      await store.putBlob(key, content);
      const read = await store.getBlob(key);
      if (read.equals(content)) return;
      throw new BlobStoreError('unavailable', `${key} does not hold what was just written to it`, { key });
    },
    async upload() {
      const begun = await store.createUpload(upload, { expectedBytes: 0 });
      await begun.finish(0);
    },
    async list() {
      for await (const blob of store.listBlobs(folder)) if (blob.key === key) return;
      throw new BlobStoreError('unavailable', `${key} was written and is not listed`, { key });
    },
    async delete() {
      await store.deleteBlob(key);
      await store.deleteBlob(upload);
      if ((await store.statBlob(key)) === undefined) return;
      throw new BlobStoreError('denied', `${key} was deleted and is still there`, { key });
    },
  };
  const checks: AccessCheck[] = [];
  let isRefused = false;
  for (const [act, attempt] of Object.entries(acts) as [AccessCheck['act'], () => Promise<void>][]) {
    // What was written goes, also when something between does not work.
    const isTried: boolean =
      !isRefused || (act === 'delete' && checks.find((check) => check.act === 'write')?.problem === null);
    const problem: AccessCheck['problem'] = isTried ? await problemOf(attempt) : undefined;
    isRefused ||= problem !== null;
    checks.push({ act, problem });
  }
  return checks;
}

async function problemOf(attempt: () => Promise<void>): Promise<BlobStoreError | null> {
  try {
    await attempt();
    return null;
  } catch (error) {
    if (error instanceof BlobStoreError) return error;
    throw error;
  }
}

/** @throws BlobStoreError of the first act that failed, naming it */
export async function requireAccess(store: BlobStore): Promise<void> {
  for (const { act, problem } of await checkAccess(store)) {
    if (!problem) continue;
    throw new BlobStoreError(problem.code, `the check of ${act} access failed: ${problem.message}`, { cause: problem });
  }
}
