import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { rewriteKey, rewriterOf, sumsKey } from '../../repository/layout.ts';
import { readStoredManifest } from '../../repository/manifest.ts';
import { keysFor } from '../../repository/repository-keys.ts';
import { unsealManifest } from '../../repository/sealed-manifest.ts';
import { swapFiles } from '../../repository/swap-files.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { RewritePlan, RewrittenFiles, SwappedBackup } from '../../schemas/rewrite-plan.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { rewriteFence } from './rewrite-backup.ts';

export const createSwapRewritten = ({ openStore, fence, rewrites }: HostDependencies) => ({
  /**
   * Puts the new files in the places of the former ones. Repeatable: cut off at any instant, the next attempt brings it to
   * its end. Nobody may read or write the chain meanwhile.
   * @throws IntegrityMismatch when a new file is not there whole; RepositoryUnavailable, RepositoryReadOnly
   */
  async swapRewritten(plan: RewritePlan, { disks }: RewrittenFiles): Promise<SwappedBackup> {
    return await withHeartbeat('swapping files', async () => {
      const store = await open(plan, openStore);
      const manifest = await swapFiles(store, { vmUuid: plan.vm.uuid, backupId: plan.backupId }, disks);
      const {
        type,
        parentId,
        compression,
        disks: now,
      } = await unsealManifest(manifest, await keysFor(store, plan.repository));
      return { type, parentId, compression, disks: now };
    });
  },

  /**
   * Removes what a rewriting left beside, and its notes. Repeatable. Where the swap has begun nothing is removed that it
   * needs: the manifest names both files, readers find the right one, and the next rewriting finishes it.
   */
  async undoRewrite(plan: RewritePlan): Promise<void> {
    await withHeartbeat('removing what was rewritten', async () => {
      await fence.stop((key) => key === rewriteFence(plan.operationId), 'the rewriting is undone');
      const store = await open(plan, openStore);
      const manifest = await manifestOf(store, plan);
      const isSwapping = manifest?.disks.some(
        ({ replacement }) => replacement && rewriterOf(replacement.temporary) === plan.operationId,
      );
      if (isSwapping === true) return;
      const note = await rewrites.read(plan.operationId);
      for (const file of new Set([...(note?.files ?? []), ...(manifest?.disks ?? []).map((disk) => disk.file)])) {
        const temporary = rewriteKey(file, plan.operationId);
        await store.deleteBlob(temporary);
        await store.deleteBlob(sumsKey(temporary));
      }
      await rewrites.remove(plan.operationId);
    });
  },

  /** Drops the host's notes of a rewriting that came to its end. */
  async forgetRewrite({ operationId }: RewritePlan): Promise<void> {
    await rewrites.remove(operationId);
  },
});

async function open(plan: RewritePlan, openStore: HostDependencies['openStore']): Promise<BlobStore> {
  const store = openStore(plan.repository.location);
  await openRepository(store, plan.repository);
  return store;
}

/** undefined when the backup is gone. */
async function manifestOf(store: BlobStore, { vm, backupId }: RewritePlan): Promise<Manifest | undefined> {
  return await readStoredManifest(store, vm.uuid, backupId).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
    throw error;
  });
}
