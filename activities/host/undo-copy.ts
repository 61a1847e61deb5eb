import { sumsKey, validationKeys } from '../../repository/layout.ts';
import { deleteManifest } from '../../repository/manifest.ts';
import type { CopyPlan } from '../../schemas/copy.ts';
import { withHeartbeat } from '../cancellation.ts';
import { copyFence, openStoreOf } from './copy-backup.ts';
import type { HostDependencies } from './dependencies.ts';

export const createUndoCopy = ({
  openStore,
  fence,
  copies,
}: Pick<HostDependencies, 'openStore' | 'fence' | 'copies'>) => ({
  /**
   * Removes what a copy that did not come to its end left in the target, a manifest first that was written though its answer
   * was lost, and its notes. Repeatable.
   */
  async undoCopy(plan: CopyPlan): Promise<void> {
    await withHeartbeat('removing what was copied', async () => {
      await fence.stop((key) => key === copyFence(plan.operationId), 'the copy is undone');
      const note = await copies.read(plan.operationId);
      if (note === undefined) return; // nothing was begun
      const target = await openStoreOf(openStore, plan.to);
      await deleteManifest(target, plan.vm.uuid, plan.backupId);
      for (const { file } of note.files) {
        await target.deleteBlob(file);
        await target.deleteBlob(sumsKey(file));
      }
      for (const key of validationKeys(plan.vm.uuid, plan.backupId)) await target.deleteBlob(key);
      await copies.remove(plan.operationId);
    });
  },

  /** Drops the host's notes of a copy that the catalog knows. */
  async forgetCopy({ operationId }: CopyPlan): Promise<void> {
    await copies.remove(operationId);
  },
});
