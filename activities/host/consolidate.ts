import { Context } from '@temporalio/activity';
import { setTimeout as delay } from 'node:timers/promises';
import { standAlone } from '../../libvirt/backing-chain-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { LibvirtError, type Domain, type LibvirtEvent } from '../../libvirt/libvirt.ts';
import { openRepository } from '../../repository/identity.ts';
import { readSums } from '../../repository/sums.ts';
import type { Consolidation, PullState, ToldState } from '../../schemas/consolidation.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { powerOf } from './power.ts';
import { readQuickNote } from './quick-restore-notes.ts';
import { diskOfFile, readManifestChain } from './restore-chain.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { imageStandsAlone } from './stopped-images.ts';
import { isStill } from './still-guests.ts';
import { createSwapDisks } from './swap-disks.ts';

const PROGRESS_EVERY_MS = 2000;

export const createConsolidate = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { gateways, libvirt, restores, host, state: hostState, stillGuests } = dependencies;
  const swaps = createSwapDisks(dependencies);

  return {
    /**
     * Sees to it that the next disk is being pulled, one after the other, at most at the rate, and waits up to
     * `waitSeconds` for something to happen. A guest that stands still because a read or write failed goes on when the
     * repository answers again. Repeatable at any time: looks before it acts.
     * @param told what the caller knows already, null = nothing: anything else is told at once. By default what is so now
     */
    async watchPull(consolidation: Consolidation, waitSeconds: number, told?: ToldState | null): Promise<PullState> {
      const context = Context.current();
      const signal = cancellationSignal();
      const deadline = Date.now() + waitSeconds * 1000;
      await using events = libvirt.events({ uuid: consolidation.vm.uuid, signal });
      await events.ready; // before the look: nothing may happen unseen in between
      let known = told;
      for (let next = events.next(); ;) {
        const now = await look(consolidation, signal);
        if (known === undefined) known = now;
        const [pulled] = now.disks.filter(({ done, pulledBytes }) => !done && pulledBytes > 0);
        if (pulled !== undefined) {
          const { target, pulledBytes: copiedBytes, totalBytes } = pulled;
          context.heartbeat({ target, copiedBytes, totalBytes, storedBytes: 0 });
        } else context.heartbeat({ step: now.state });
        const isOver = now.state === 'done' || now.state === 'gone' || now.pullFailed !== null || now.resumed;
        const leftMs = deadline - Date.now();
        const isNew = now.state !== known?.state || now.paused !== known.paused;
        if (isOver || isNew || leftMs <= 0) return now;
        const happened = await Promise.race([next, delay(Math.min(leftMs, PROGRESS_EVERY_MS))]);
        signal.throwIfAborted();
        if (happened === undefined) continue;
        next = events.next();
        const event = happened.value as LibvirtEvent | undefined;
        if (event?.kind === 'blockJob2' && event.jobType === 'pull' && event.status === 'failed') {
          const why = await gateways.problem(consolidation.id);
          const pullFailed = `the pull of disk ${event.target} ended with an error${why === null ? '' : `: ${why}`}`;
          return { ...now, state: 'waiting', waitingFor: pullFailed, pullFailed };
        }
      }
    },

    /** Ends the pull where it is; what was pulled stays. Repeatable. */
    async stopPull({ vm, prepared }: Consolidation): Promise<void> {
      await withHeartbeat('stopping the pull', async () => {
        const signal = cancellationSignal();
        const domain = await libvirt.lookupByUuid(vm.uuid, { signal });
        if (domain === undefined || powerOf((await libvirt.state(domain, { signal })).state) === 'shutoff') return;
        for (const { path } of prepared.disks) {
          const job = await libvirt.blockJobInfo(domain, path, { signal });
          if (job?.type === 'pull') await libvirt.blockJobAbort(domain, path, {}, { signal });
        }
      });
    },

    /**
     * The disks depend on nothing: the definition says so too, a read that fails is told to the guest again from its next
     * start on, and the former disks go, unless they are wanted still. Repeatable.
     */
    async finishConsolidation({ id, plan, prepared }: Consolidation, keepFormer: boolean): Promise<void> {
      await withHeartbeat('tidying up', async () => {
        const signal = cancellationSignal();
        const note = await readQuickNote(restores, id);
        if (note !== undefined) {
          const domain = await domainOf(libvirt, prepared.vm, host, { signal });
          const xml = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
          await libvirt.define(standAlone(xml, note.policies), {}, { signal });
        }
        await gateways.end(id);
        await hostState.remove(id);
        if (!keepFormer) await swaps.finishRestore({ ...plan, start: false }, prepared);
        await restores.remove(id);
      });
    },
  };

  async function look(consolidation: Consolidation, signal: AbortSignal): Promise<PullState> {
    const { vm, prepared } = consolidation;
    const state = (found: Partial<PullState> & Pick<PullState, 'state'>): PullState => ({
      waitingFor: null,
      resumed: false,
      paused: false,
      pullFailed: null,
      disks: [],
      ...found,
    });
    const domain = await libvirt.lookupByUuid(vm.uuid, { signal });
    if (domain === undefined) return state({ state: 'gone' });
    const now = await libvirt.state(domain, { signal });
    const isOff = powerOf(now.state) === 'shutoff';
    const definition = parseDomainXml(await libvirt.domainXml(domain, { inactive: isOff }, { signal }));
    const disks = await Promise.all(
      prepared.disks.map(async ({ target, path, virtualSizeBytes }) => {
        const present = definition.disks.find(({ sourcePath }) => sourcePath === path);
        // A definition may be altered by hand; of a VM that is off only the image tells.
        const isIdle = isOff || present === undefined;
        const done = isIdle ? await imageStandsAlone(path, { signal }) : present.backingChain.length === 0;
        return {
          target,
          path,
          done,
          isDetached: present === undefined,
          pulledBytes: done ? virtualSizeBytes : 0,
          totalBytes: virtualSizeBytes,
        };
      }),
    );
    const next = disks.find(({ done }) => !done);
    if (next === undefined) return state({ state: 'done', disks });
    if (next.isDetached) {
      const waitingFor = `disk ${next.target} is detached and still depends on the backup; attach ${next.path} again`;
      return state({ state: 'waiting', waitingFor, disks });
    }
    if (isOff) return state({ state: 'off', disks });

    const job = await libvirt.blockJobInfo(domain, next.path, { signal });
    const paused = isStill(now);
    if (job?.type === 'pull') {
      next.pulledBytes = job.currentBytes;
      next.totalBytes = job.endBytes;
      const wanted = consolidation.rateBytesPerSecond ?? 0;
      if (job.bandwidthBytes !== wanted) await libvirt.blockJobSetSpeed(domain, next.path, wanted, { signal });
      if (!paused) return state({ state: 'pulling', disks });
    } else if (job !== undefined) {
      return state({
        state: 'waiting',
        waitingFor: `disk ${next.target}: another block job (${job.type}) runs`,
        disks,
      });
    }
    const problem = await stillGuests.problem(consolidation, signal);
    if (problem !== undefined) {
      const guest = paused ? ', and the guest stands still' : '';
      return state({ state: 'waiting', paused, waitingFor: `waiting for the repository${guest}: ${problem}`, disks });
    }
    if (paused) await stillGuests.letGoOn(domain, signal);
    const pullFailed = job === undefined ? await beginPull(domain, next.path, consolidation, signal) : null;
    return state({
      state: pullFailed === null ? 'pulling' : 'waiting',
      waitingFor: pullFailed,
      pullFailed,
      resumed: paused,
      disks,
    });
  }

  async function beginPull(
    domain: Domain,
    path: string,
    { rateBytesPerSecond }: Consolidation,
    signal: AbortSignal,
  ): Promise<string | null> {
    try {
      await libvirt.blockPull(domain, path, { bandwidthBytes: rateBytesPerSecond ?? 0 }, { signal });
      return null;
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error;
      return error.message;
    }
  }
};

/** Reads what a VM is pulled from, on the queue of work on stored backups. */
export const createVerifyChain = ({ copier, openStore }: HostDependencies) => ({
  /**
   * Reads every stored byte that the VM's disks are pulled from and compares it with the manifests' hashes.
   * @throws IntegrityMismatch, BackupFileMissing, RepositoryUnavailable
   */
  async verifyChain({ plan, prepared }: Pick<Consolidation, 'plan' | 'prepared'>): Promise<{ verifiedBytes: number }> {
    const context = Context.current();
    const signal = cancellationSignal();
    const heartbeat = { target: 'verify', copiedBytes: 0, totalBytes: 0, storedBytes: 0 };
    const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
    try {
      const store = openStore(plan.repository.location);
      await openRepository(store, plan.repository);
      const manifests = await readManifestChain(store, plan.vm.uuid, plan.backupId);
      const links = prepared.disks.flatMap(({ chain }) => chain);
      const files = [...new Map(links.map((link) => [link.file, diskOfFile(manifests, link)])).values()];
      heartbeat.totalBytes = files.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
      for (const stored of files) {
        const file = {
          source: store.source(stored.file),
          storedBytes: stored.storedBytes,
          segments: await readSums(store, stored),
        };
        const before = heartbeat.copiedBytes;
        await copier.verifyFile(file, {
          signal,
          onProgress: (verifiedBytes) => (heartbeat.copiedBytes = before + verifiedBytes),
        });
        heartbeat.copiedBytes = before + stored.storedBytes;
      }
      return { verifiedBytes: heartbeat.copiedBytes };
    } finally {
      clearInterval(pulse);
    }
  },
});
