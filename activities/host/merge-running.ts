import { setTimeout as sleep } from 'node:timers/promises';
import { LibvirtConnectionLost, LibvirtTimeout } from '../../libvirt/errors.ts';
import { LibvirtError, type Domain, type EventSubscription, type Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { MergeStep } from './merge-plan.ts';

/** Events tell when a job is over; one that was missed is made good by a look this often. */
const LOOK_EVERY_MS = 2000;

/**
 * Merges overlays of a running VM by a block commit, and with a pivot where the VM writes to the topmost of them. A job
 * that an earlier attempt began is waited for. Whether the merge came about, the disk's images tell afterwards.
 * @throws HoldfastError DomainBusy while another block job runs on the disk; MergeFailed when the job is refused
 */
export async function mergeRunning(
  libvirt: Libvirt,
  domain: Domain,
  target: string,
  { dropped, into, above }: MergeStep,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  await using events = libvirt.events({ uuid: domain.uuid, signal });
  await events.ready;
  const news = new JobNews(events, target, signal);
  const isActive = above === null;
  const job = await libvirt.blockJobInfo(domain, target, { signal });
  if (job === undefined) {
    const top = isActive ? {} : { top: dropped[0] ?? '' };
    await libvirt
      .blockCommit(domain, target, { base: into.path, active: isActive, ...top }, { signal })
      .catch((error: unknown) => {
        if (!(error instanceof LibvirtError)) throw error;
        throw new HoldfastError('MergeFailed', `disk ${target} of VM ${domain.name}: ${error.message}`, {
          cause: error,
        });
      });
  } else if (job.type !== 'commit' && job.type !== 'active-commit') {
    throw new HoldfastError(
      'DomainBusy',
      `disk ${target} of VM ${domain.name} has a block job (${job.type}) of others`,
    );
  }
  for (;;) {
    const now = await libvirt.blockJobInfo(domain, target, { signal });
    if (now === undefined) return;
    if (now.type === 'active-commit' && now.currentBytes === now.endBytes && (await pivoted())) return;
    await news.next(LOOK_EVERY_MS, signal);
  }

  /** False when the job is not ready yet, though it has copied everything so far. */
  async function pivoted(): Promise<boolean> {
    try {
      await libvirt.blockJobAbort(domain, target, { pivot: true }); // not cancellable: halfway is no place to stop
      return true;
    } catch (error) {
      if (error instanceof LibvirtError) return false;
      throw error;
    }
  }
}

/** Waits for the next block job event of a disk. */
class JobNews {
  #arrived = Promise.withResolvers<undefined>();
  #failure: Error | undefined;
  constructor(events: EventSubscription, target: string, signal: AbortSignal) {
    this.#listen(events, target).catch((error: unknown) => {
      // Without a connection no event comes, but the looks go on: they find it again, or say that it is lost.
      if (error instanceof LibvirtConnectionLost || error instanceof LibvirtTimeout || signal.aborted) return;
      this.#failure = error instanceof Error ? error : new Error(String(error));
      this.#arrived.resolve(undefined);
    });
  }

  async #listen(events: EventSubscription, target: string): Promise<void> {
    for await (const event of events) {
      if (event.kind !== 'gap' && !(event.kind === 'blockJob2' && event.target === target)) continue;
      const { resolve } = this.#arrived;
      this.#arrived = Promise.withResolvers<undefined>();
      resolve(undefined);
    }
  }

  async next(atMostMs: number, signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    try {
      await Promise.race([
        this.#arrived.promise,
        sleep(atMostMs, undefined, { signal: AbortSignal.any([signal, stop.signal]) }),
      ]);
    } finally {
      stop.abort();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }
}
