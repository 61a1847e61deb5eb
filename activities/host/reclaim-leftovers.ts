import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { createAttachDisk } from './attach-disk.ts';
import { abortOwnJob, runningBackupJob } from './backup-job.ts';
import { createStoppedCapture } from './capture-stopped.ts';
import { removeCheckpoint } from './checkpoints.ts';
import type { HostDependencies } from './dependencies.ts';
import { createEndBackup, type AbortedBackup } from './end-backup.ts';
import { listIds } from './json-notes.ts';
import { createMergeDeltas } from './merge-deltas.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { createSwapDisks } from './swap-disks.ts';
import { createThrowAwayVms } from './throw-away-vm.ts';
import { createSwapRewritten } from './swap-rewritten.ts';
import { createUndoCopy } from './undo-copy.ts';

type Published = NonNullable<AbortedBackup['published']>;

/** One sort of thing that operations leave on a host, each under the id of its operation. */
interface LeftoverSort {
  list: () => Promise<{ id: string; touchedMs: number }[]>;
  /** What it is, for people; null where another sort of the same id tells of it, and undoes it. */
  describe: (id: string) => Promise<string | null>;
  /** Gives the backup that turned out to be published, and only wants to be listed. Repeatable. */
  undo: (id: string) => Promise<Published | null>;
}

export const createReclaimLeftovers = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { captures, gateways, restores, rewrites, copies, state, libvirt } = dependencies;
  const backups = createEndBackup(dependencies);
  const attaching = createAttachDisk(dependencies);
  const swaps = createSwapDisks(dependencies);
  const merges = createMergeDeltas(dependencies);
  const throwAways = createThrowAwayVms(dependencies);
  const rewritten = createSwapRewritten(dependencies);
  const copying = createUndoCopy(dependencies);
  const stopped = createStoppedCapture(dependencies);

  /** A folder of no operation that left notes: those are undone by their notes. */
  const describeFolder = async (id: string, what: string): Promise<string | null> => {
    const noted = (await captures.read(id)) ?? (await throwAways.notes.read(id));
    return noted === undefined ? `${what} ${id}` : null;
  };
  const removeFolders = async (id: string): Promise<null> => {
    await stopped.endServers(id);
    await state.remove(id);
    return null;
  };

  /** In the order in which they are undone. A new sort of thing that may be left over goes in here. */
  const sorts: LeftoverSort[] = [
    {
      list: () => captures.list(),
      async describe(id) {
        const capture = await captures.read(id);
        return `backup ${id}${capture === undefined ? '' : ` of VM ${capture.plan.target.vm.name}`}: notes and drafts`;
      },
      async undo(id) {
        const capture = await captures.read(id);
        if (capture?.plan.target.strategy === 'snapshot') await merges.undoSnapshot(id, capture.plan.target);
        const aborted = capture === undefined ? undefined : await backups.abortBackup(id, capture.plan.target);
        if (aborted?.published != null) return aborted.published; // its notes go when it is listed
        if (aborted?.leftInRepository == null) await captures.remove(id);
        return null;
      },
    },
    {
      list: () => restores.list(),
      async describe(id) {
        const vm = (await restores.read(id))?.prepared.vm.name ?? (await restores.readDisk(id))?.plan.toVm.name;
        return `restore ${id}${vm === undefined ? '' : ` of VM ${vm}`}: notes and disks beside`;
      },
      async undo(id) {
        const note = await restores.read(id);
        const disk = await restores.readDisk(id);
        if (note !== undefined) await swaps.undoRestore(note.plan);
        else if (disk !== undefined) await attaching.undoDisk(disk.plan);
        else await restores.remove(id);
        return null;
      },
    },
    {
      list: () => throwAways.notes.list(),
      describe: async (id) => `throw-away VM of backup ${(await throwAways.notes.read(id))?.backupId ?? id}`,
      async undo(id) {
        await throwAways.end(id, { signal: cancellationSignal() });
        return null;
      },
    },
    {
      list: () => gateways.list(),
      async describe(id) {
        const noted = (await restores.read(id)) ?? (await throwAways.notes.read(id));
        return noted === undefined ? `gateway ${id}: the process that serves a backup` : null;
      },
      async undo(id) {
        await gateways.end(id);
        return await removeFolders(id);
      },
    },
    {
      list: () => rewrites.list(),
      async describe(id) {
        const note = await rewrites.read(id);
        const of = note === undefined ? '' : ` of backup ${note.plan.backupId} of VM ${note.plan.vm.name}`;
        return `rewriting ${id}${of}: notes and files beside`;
      },
      async undo(id) {
        const note = await rewrites.read(id);
        if (note === undefined) await rewrites.remove(id);
        else await rewritten.undoRewrite(note.plan);
        return null;
      },
    },
    {
      list: () => copies.list(),
      async describe(id) {
        const note = await copies.read(id);
        const of = note === undefined ? '' : ` of backup ${note.plan.backupId} of VM ${note.plan.vm.name}`;
        return `copy ${id}${of}: notes and files in ${note?.plan.to.name ?? 'its repository'}`;
      },
      async undo(id) {
        const note = await copies.read(id);
        if (note === undefined) await copies.remove(id);
        else await copying.undoCopy(note.plan);
        return null;
      },
    },
    {
      list: async () => (await runningJobs()).map(({ id }) => ({ id, touchedMs: 0 })), // notes come before the job
      async describe(id) {
        if ((await captures.read(id)) !== undefined) return null;
        const job = (await runningJobs()).find((one) => one.id === id);
        return job === undefined ? null : `backup job ${id} on VM ${job.domain.name}`;
      },
      async undo(id) {
        const signal = cancellationSignal();
        const job = (await runningJobs()).find((one) => one.id === id);
        if (job === undefined) return null;
        await abortOwnJob(libvirt, job.domain, state, id, { signal });
        await removeCheckpoint(libvirt, job.domain, id, { signal });
        return await removeFolders(id);
      },
    },
    {
      list: () => listIds(state.scratchRoot),
      describe: (id) => describeFolder(id, 'scratch folder of'),
      undo: removeFolders,
    },
    {
      list: () => listIds(state.socketRoot),
      describe: (id) => describeFolder(id, 'sockets of'),
      undo: removeFolders,
    },
  ];

  /** Backup jobs of ours in the QEMUs of this host. */
  async function runningJobs() {
    const signal = cancellationSignal();
    const jobs = [];
    for (const domain of await libvirt.listDomains({ signal })) {
      const job = await runningBackupJob(libvirt, domain, state, { signal }).catch((error: unknown) => {
        if (isLibvirtError(error, LIBVIRT_ERRORS.NO_DOMAIN)) return undefined; // undefined meanwhile
        throw error;
      });
      if (job?.backupId !== undefined) jobs.push({ id: job.backupId, domain });
    }
    return jobs;
  }

  return {
    /** Ids of operations that have left something on this host, or are at work on it now. */
    async listLeftovers(): Promise<string[]> {
      return await withHeartbeat('listing notes and folders', async () => {
        const found = new Set<string>();
        for (const sort of sorts) for (const { id } of await sort.list()) found.add(id);
        return [...found].toSorted();
      });
    },

    /**
     * Undoes what this host's notes and folders tell of operations that do not go on: of those in `listed`, which were seen
     * before it was asked what goes on, those in `orphaned` at once, others that are not in `keep` when they are older than
     * the grace time. Returns what it found, in words, and the backups that are published and only want to be listed; a dry
     * run changes nothing.
     */
    async reclaimLeftovers(asked: {
      listed: string[];
      keep: string[];
      orphaned: string[];
      graceSeconds: number;
      dryRun: boolean;
    }): Promise<{ found: string[]; published: Published[] }> {
      const { graceSeconds, dryRun } = asked;
      const [listed, keep, ended] = [new Set(asked.listed), new Set(asked.keep), new Set(asked.orphaned)];
      return await withHeartbeat('looking for leftovers', async () => {
        const isOrphaned = ({ id, touchedMs }: { id: string; touchedMs: number }): boolean =>
          listed.has(id) && !keep.has(id) && (ended.has(id) || Date.now() - touchedMs >= graceSeconds * 1000);
        const found: string[] = [];
        const published: Published[] = [];
        for (const sort of sorts) {
          for (const { id } of (await sort.list()).filter(isOrphaned)) {
            const description = await sort.describe(id);
            if (description === null) continue;
            found.push(description);
            const whole = dryRun ? null : await sort.undo(id);
            if (whole !== null) published.push(whole);
          }
        }
        return { found, published };
      });
    },
  };
};
