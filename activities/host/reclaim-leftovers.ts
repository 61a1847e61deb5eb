import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { createAttachDisk } from './attach-disk.ts';
import { createEndBackup, type AbortedBackup } from './end-backup.ts';
import { listIds } from './json-notes.ts';
import { createMergeDeltas } from './merge-deltas.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { createSwapDisks } from './swap-disks.ts';
import { createThrowAwayVms } from './throw-away-vm.ts';
import { createSwapRewritten } from './swap-rewritten.ts';

export const createReclaimLeftovers = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { captures, restores, rewrites, state } = dependencies;
  const backups = createEndBackup(dependencies);
  const attaching = createAttachDisk(dependencies);
  const swaps = createSwapDisks(dependencies);
  const merges = createMergeDeltas(dependencies);
  const throwAways = createThrowAwayVms(dependencies);
  const rewritten = createSwapRewritten(dependencies);

  return {
    /**
     * Undoes what this host's notes and folders tell of operations that do not go on: those in `orphaned` at once, others
     * that are not in `keep` when they are older than the grace time. Returns what it found, in words, and the backups that
     * are published and only want to be listed; a dry run changes nothing.
     */
    async reclaimLeftovers(asked: {
      keep: string[];
      orphaned: string[];
      graceSeconds: number;
      dryRun: boolean;
    }): Promise<{ found: string[]; published: NonNullable<AbortedBackup['published']>[] }> {
      const { keep, orphaned: ended, graceSeconds, dryRun } = asked;
      return await withHeartbeat('looking for leftovers', async () => {
        const kept = new Set(keep);
        const orphaned = ({ id, touchedMs }: { id: string; touchedMs: number }): boolean =>
          !kept.has(id) && (ended.includes(id) || Date.now() - touchedMs >= graceSeconds * 1000);
        const found: string[] = [];
        const published: NonNullable<AbortedBackup['published']>[] = [];
        for (const { id } of (await captures.list()).filter(orphaned)) {
          const capture = await captures.read(id);
          found.push(
            `backup ${id}${capture === undefined ? '' : ` of VM ${capture.plan.target.vm.name}`}: notes and drafts`,
          );
          if (dryRun) continue;
          if (capture?.plan.target.strategy === 'snapshot') await merges.undoSnapshot(id, capture.plan.target);
          const aborted = capture === undefined ? undefined : await backups.abortBackup(id, capture.plan.target);
          if (aborted?.published != null && ended.includes(id)) published.push(aborted.published);
          else if (aborted?.leftInRepository == null) await captures.remove(id);
        }
        for (const { id } of (await restores.list()).filter(orphaned)) {
          const note = await restores.read(id);
          const disk = await restores.readDisk(id);
          const vm = note?.prepared.vm.name ?? disk?.plan.toVm.name;
          found.push(`restore ${id}${vm === undefined ? '' : ` of VM ${vm}`}: notes and disks beside`);
          if (dryRun) continue;
          if (note !== undefined) await swaps.undoRestore(note.plan);
          else if (disk !== undefined) await attaching.undoDisk(disk.plan);
          else await restores.remove(id);
        }
        for (const { id } of (await throwAways.notes.list()).filter(orphaned)) {
          const note = await throwAways.notes.read(id);
          found.push(`throw-away VM of backup ${note?.backupId ?? id}`);
          if (!dryRun) await throwAways.end(id, { signal: cancellationSignal() });
        }
        for (const { id } of (await rewrites.list()).filter(orphaned)) {
          const note = await rewrites.read(id);
          const of = note === undefined ? '' : ` of backup ${note.plan.backupId} of VM ${note.plan.vm.name}`;
          found.push(`rewriting ${id}${of}: notes and files beside`);
          if (dryRun) continue;
          if (note === undefined) await rewrites.remove(id);
          else await rewritten.undoRewrite(note.plan);
        }
        for (const folder of (await listIds(state.scratchRoot)).filter(orphaned)) {
          if ((await captures.read(folder.id)) !== undefined) continue;
          found.push(`scratch folder of backup ${folder.id}`);
          if (!dryRun) await state.remove(folder.id);
        }
        return { found, published };
      });
    },
  };
};
