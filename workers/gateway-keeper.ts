import { setTimeout as sleep } from 'node:timers/promises';
import type { Gateways } from '../activities/host/gateways.ts';
import type { StillGuests } from '../activities/host/still-guests.ts';

const LOOK_EVERY_MS = 3000;
const AGAIN_AFTER_MS = 10_000;
/** A guest that stands still again and again, as on a damaged backup, is let go on less and less often. */
const MAX_PAUSE_MS = 300_000;

/**
 * Begins gateways anew whose process has ended, and lets guests go on that stood still meanwhile: a VM waits for what a gateway
 * serves, whether a job looks after it or not.
 */
export function keepGateways(
  gateways: Pick<Gateways, 'list' | 'ensure'>,
  stillGuests: Pick<StillGuests, 'look'>,
  log: (line: string) => void,
): AsyncDisposable {
  const ended = new AbortController();
  const { signal } = ended;
  const looks = new Map<string, Look>();

  const look = async (id: string, one: Look): Promise<void> => {
    try {
      await gateways.ensure(id, { signal });
      if (one.stillNotBeforeMs > Date.now()) return;
      const guest = await stillGuests.look(id, signal);
      one.pauseMs = guest === undefined ? LOOK_EVERY_MS : Math.min(one.pauseMs * 2, MAX_PAUSE_MS);
      if (guest === undefined) return;
      one.stillNotBeforeMs = Date.now() + one.pauseMs;
      log(`VM ${guest} stood still because a read or write failed, and goes on`);
    } catch (error) {
      if (signal.aborted) return;
      log(error instanceof Error ? error.message : String(error));
      one.notBeforeMs = Date.now() + AGAIN_AFTER_MS;
    }
  };
  /** None waits for another: one whose repository does not answer must not hold up the rest, as after a reboot. */
  const lookAtAll = async (): Promise<void> => {
    const ids = (await gateways.list()).map(({ id }) => id);
    for (const [id, { running }] of looks) if (running === undefined && !ids.includes(id)) looks.delete(id);
    for (const id of ids) {
      const one = looks.get(id) ?? { notBeforeMs: 0, stillNotBeforeMs: 0, pauseMs: LOOK_EVERY_MS, running: undefined };
      looks.set(id, one);
      if (one.notBeforeMs <= Date.now()) one.running ??= look(id, one).finally(() => (one.running = undefined));
    }
  };
  const keep = async (): Promise<void> => {
    while (!signal.aborted) {
      await lookAtAll().catch((error: unknown) => log(`gateways cannot be listed: ${String(error)}`));
      await sleep(LOOK_EVERY_MS, undefined, { signal });
    }
  };
  const kept = keep().catch((error: unknown) => {
    if (!signal.aborted) log(`gateways are not looked after any more: ${String(error)}`);
  });
  return {
    async [Symbol.asyncDispose]() {
      ended.abort();
      await kept;
      for (const { running } of looks.values()) await running;
    },
  };
}

interface Look {
  notBeforeMs: number;
  stillNotBeforeMs: number;
  pauseMs: number;
  running: Promise<void> | undefined;
}
