import { setTimeout as sleep } from 'node:timers/promises';
import type { Gateways } from '../activities/host/gateways.ts';

const LOOK_EVERY_MS = 3000;
const AGAIN_AFTER_MS = 30_000;

/** Begins gateways anew whose process has ended: a VM waits for what it serves, whether a job looks after it or not. */
export function keepGateways(gateways: Gateways, log: (line: string) => void): AsyncDisposable {
  const ended = new AbortController();
  const { signal } = ended;
  const notBefore = new Map<string, number>();
  /** One that takes long to begin keeps nobody else's disks waiting. */
  const look = async (): Promise<void> => {
    const noted = await gateways.list();
    await Promise.all(
      noted.map(async ({ id }) => {
        if ((notBefore.get(id) ?? 0) > Date.now()) return;
        await gateways.ensure(id, { signal }).catch((error: unknown) => {
          if (signal.aborted) return;
          log(error instanceof Error ? error.message : String(error));
          notBefore.set(id, Date.now() + AGAIN_AFTER_MS);
        });
      }),
    );
  };
  const keep = async (): Promise<void> => {
    while (!signal.aborted) {
      await look().catch((error: unknown) => log(`gateways cannot be listed: ${String(error)}`));
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
    },
  };
}
