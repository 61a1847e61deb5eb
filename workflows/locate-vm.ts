import { ApplicationFailure, sleep } from '@temporalio/workflow';
import type { VmRecord } from '../schemas/catalog.ts';
import { controlActivities, hostProbes } from './activity-proxies.ts';
import type { OperationView } from './operation-view.ts';

/** Between two looks for a host whose worker does not answer. */
const WAIT_SECONDS = [5, 10, 20, 30, 60];

/**
 * Finds the one VM that a name or UUID means, as the hypervisors show it now: where it runs is its host, though the
 * catalog may remember another. Waits, up to the limit, for a host that is known to have it and does not answer.
 */
export async function locateVm(vm: string, view: OperationView, waitLimitSeconds: number): Promise<VmRecord> {
  const control = controlActivities();
  const startedMs = Date.now(); // the workflow clock: the same on replay
  for (let round = 0; ; round += 1) {
    const before = await control.whereIsVm(vm);
    const silentHinted = await askHosts(vm, before.hinted);
    let after = await control.whereIsVm(vm);
    if (after.match !== null && after.match.power !== 'shutoff' && silentHinted.length === 0) return after.match;
    const silentOthers = await askHosts(vm, before.others);
    after = await control.whereIsVm(vm);
    if (after.match !== null && !silentHinted.includes(after.match.host)) return after.match;
    if (after.match === null && silentHinted.length === 0) {
      const silent = silentOthers.length === 0 ? '' : `; no answer from ${silentOthers.join(', ')}`;
      throw ApplicationFailure.create({
        type: before.others.length + before.hinted.length === 0 ? 'HostNotFound' : 'VmNotFound',
        nonRetryable: true,
        message:
          before.others.length + before.hinted.length === 0
            ? `VM ${vm}: no host is known yet; start a host worker or add one with: holdfast host add`
            : `VM ${vm} is on none of the hosts asked${silent}; see: holdfast vm ls`,
      });
    }
    if (Date.now() - startedMs > waitLimitSeconds * 1000) {
      throw ApplicationFailure.create({
        type: 'HostUnreachable',
        nonRetryable: true,
        message: `VM ${vm}: its host ${silentHinted.join(', ')} did not answer within ${waitLimitSeconds} s`,
      });
    }
    view.waitingFor(`waiting for host ${silentHinted.join(', ')}: its worker does not answer`);
    await sleep((WAIT_SECONDS[Math.min(round, WAIT_SECONDS.length - 1)] ?? 60) * 1000);
  }
}

/** Asks every host for the VM and notes the answers in the catalog. Returns the hosts that gave none. */
async function askHosts(vm: string, hosts: string[]): Promise<string[]> {
  const control = controlActivities();
  const silent: string[] = [];
  await Promise.all(
    hosts.map(async (host) => {
      try {
        await control.recordAnswer(host, vm, await hostProbes(host).findVm(vm));
      } catch (error) {
        if (!isNoAnswer(error)) throw error;
        silent.push(host);
      }
    }),
  );
  return silent.toSorted();
}

function isNoAnswer(error: unknown): boolean {
  return error instanceof Error && error.name === 'ActivityFailure' && !isCancelled(error);
}

const isCancelled = (error: Error): boolean => error.cause instanceof Error && error.cause.name === 'CancelledFailure';
