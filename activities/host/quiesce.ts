import { setTimeout as sleep } from 'node:timers/promises';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { QuiesceMode } from '../../schemas/states.ts';

/** How long a guest may take to freeze its file systems; a hung agent must not hold up the backup. */
const FREEZE_SECONDS = 20;
/** libvirt's own default: wait for ever. */
const NO_LIMIT = -2;
const CALL_MS = (FREEZE_SECONDS + 15) * 1000;

export interface Quiesced<T> {
  result: T;
  /** Time the guest's file systems stood still; null when they were not frozen. */
  freezeMs: number | null;
  /** Why a guest that should have been frozen was not (`prefer`). */
  notFrozen: string | null;
  /** The guest may still freeze later: its agent has not confirmed a thaw yet. */
  thawPending: boolean;
}

/**
 * Runs `act` with the guest's file systems frozen, as far as the mode asks for it, and thaws them whatever happens.
 * Goes through libvirt's own freeze and thaw with a bound on the agent's answer: an unbounded call would hold the
 * domain's agent for ever.
 * @throws HoldfastError QuiesceFailed with `require` when the guest cannot be frozen
 */
export async function quiesced<T>(
  libvirt: Libvirt,
  domain: Domain,
  mode: QuiesceMode,
  options: { signal: AbortSignal },
  act: () => Promise<T>,
): Promise<Quiesced<T>> {
  if (mode === 'none') return { result: await act(), freezeMs: null, notFrozen: null, thawPending: false };
  const startedMs = performance.now();
  const frozen = await freeze(libvirt, domain, options);
  if (frozen.refusal !== null) {
    const thawPending = frozen.asked && !(await thaw(libvirt, domain, 20_000));
    if (mode === 'require') {
      throw new HoldfastError(
        'QuiesceFailed',
        `VM ${domain.name} cannot be frozen: ${frozen.refusal}; nothing was copied`,
      );
    }
    return { result: await act(), freezeMs: null, notFrozen: frozen.refusal, thawPending };
  }
  let result: T;
  try {
    result = await act();
  } catch (error) {
    await thaw(libvirt, domain, 60_000);
    throw error;
  }
  const thawed = await thaw(libvirt, domain, 60_000);
  return { result, freezeMs: Math.round(performance.now() - startedMs), notFrozen: null, thawPending: !thawed };
}

async function freeze(
  libvirt: Libvirt,
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<{ refusal: string | null; asked: boolean }> {
  let asked = false;
  try {
    await libvirt.setAgentResponseTimeout(domain, FREEZE_SECONDS, options);
    await libvirt.fsInfo(domain, { ...options, timeoutMs: CALL_MS }); // an agent that does not answer is not asked to freeze
    asked = true;
    await libvirt.fsFreeze(domain, [], { timeoutMs: CALL_MS }); // bounded, and not cancellable: it could freeze unseen
    return { refusal: null, asked };
  } catch (error) {
    if (!asked) options.signal.throwIfAborted();
    return { refusal: error instanceof Error ? error.message : String(error), asked };
  }
}

/**
 * Thaws the guest. An agent that hangs in its freeze takes the thaw when it is done with it, so it is asked again until
 * it confirms. Not cancellable: a frozen guest is worse than a late end. Returns whether the guest is surely not frozen.
 */
export async function thaw(libvirt: Libvirt, domain: Domain, patienceMs: number): Promise<boolean> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    try {
      if (!(await mayBeFrozen(libvirt, domain))) return true;
      await libvirt.setAgentResponseTimeout(domain, FREEZE_SECONDS);
      await libvirt.fsThaw(domain, [], { timeoutMs: CALL_MS });
      await libvirt.setAgentResponseTimeout(domain, NO_LIMIT);
      return true;
    } catch {
      if (Date.now() > deadline) return false;
      await sleep(1000); // the agent is busy, or libvirtd is restarting: ask again
    }
  }
}

/** A guest that is off, or whose agent's port is closed, holds no freeze of ours. */
async function mayBeFrozen(libvirt: Libvirt, domain: Domain): Promise<boolean> {
  const { state } = await libvirt.state(domain);
  if (state === 'shutoff' || state === 'crashed') return false;
  const xml = await libvirt.domainXml(domain, {});
  return parseDomainXml(xml).isAgentConnected === true;
}
