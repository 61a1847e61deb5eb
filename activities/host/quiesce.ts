import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { QuiesceMode } from '../../schemas/states.ts';
import { AGENT_CALL_MS, AGENT_SECONDS, NO_LIMIT, thaw } from './thaw.ts';

/** Somebody who outlives this process and thaws the guests it leaves frozen. */
export interface ThawGuard {
  frozen(vmUuid: string): void;
  thawed(vmUuid: string): void;
}

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
  { libvirt, guard }: { libvirt: Libvirt; guard: ThawGuard },
  domain: Domain,
  mode: QuiesceMode,
  options: { signal: AbortSignal },
  act: () => Promise<T>,
): Promise<Quiesced<T>> {
  if (mode === 'none') return { result: await act(), freezeMs: null, notFrozen: null, thawPending: false };
  const thawed = async (patienceMs: number): Promise<boolean> => {
    const sure = await thaw(libvirt, domain, patienceMs);
    if (sure) guard.thawed(domain.uuid);
    return sure;
  };
  const noAgent = await whyAgentDoesNotAnswer(libvirt, domain, options);
  if (noAgent !== undefined) return await unfrozen(noAgent, false);
  guard.frozen(domain.uuid);
  const startedMs = performance.now();
  try {
    // Bounded, and not cancellable: it could freeze when nobody looks any more.
    await libvirt.fsFreeze(domain, [], { timeoutMs: AGENT_CALL_MS });
  } catch (error) {
    return await unfrozen(messageOf(error), !(await thawed(20_000)));
  }
  let result: T;
  try {
    result = await act();
  } catch (error) {
    await thawed(60_000);
    throw error;
  }
  const thawPending = !(await thawed(60_000));
  return { result, freezeMs: Math.round(performance.now() - startedMs), notFrozen: null, thawPending };

  async function unfrozen(notFrozen: string, thawPending: boolean): Promise<Quiesced<T>> {
    if (mode === 'require') {
      throw new HoldfastError('QuiesceFailed', `VM ${domain.name} cannot be frozen: ${notFrozen}; nothing was copied`);
    }
    return { result: await act(), freezeMs: null, notFrozen, thawPending };
  }
}

/** An agent that does not answer a harmless question is not asked to freeze: it might do so later. */
async function whyAgentDoesNotAnswer(
  libvirt: Libvirt,
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<string | undefined> {
  try {
    await libvirt.setAgentResponseTimeout(domain, AGENT_SECONDS, options);
    await libvirt.fsInfo(domain, { ...options, timeoutMs: AGENT_CALL_MS });
    return undefined;
  } catch (error) {
    await libvirt.setAgentResponseTimeout(domain, NO_LIMIT).catch(() => undefined); // refused as before: no agent channel
    options.signal.throwIfAborted();
    return messageOf(error);
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
