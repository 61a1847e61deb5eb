/** What is used here of Temporal's `PendingActivityInfo`. */
export interface PendingStep {
  state?: number | null;
  lastFailure?: { message?: string | null; applicationFailureInfo?: { type?: string | null } | null } | null;
  lastStartedTime?: Timestamp | null;
  lastHeartbeatTime?: Timestamp | null;
}

interface Timestamp {
  /** A `Long`. */
  seconds?: unknown;
  nanos?: number | null;
}

/** `temporal.api.enums.v1.PendingActivityState`: not started, or waiting for its next attempt. */
const SCHEDULED = 1;

/**
 * Why a run does not get on: a step of it failed and is tried again, as while a repository or a host is away. undefined where
 * no step failed, or the one that did is at work again and says so.
 */
export function whyRetried(steps: readonly PendingStep[]): string | undefined {
  const failed = steps.find((step) => step.lastFailure && !isAtWork(step))?.lastFailure;
  if (!failed) return undefined;
  const type = failed.applicationFailureInfo?.type;
  return `trying again what failed: ${type ? `${type}: ` : ''}${failed.message ?? ''}`;
}

/** It gave a heartbeat since it was started anew. */
function isAtWork({ state, lastHeartbeatTime, lastStartedTime }: PendingStep): boolean {
  return state !== SCHEDULED && secondsOf(lastHeartbeatTime) > secondsOf(lastStartedTime);
}

const secondsOf = (time: Timestamp | null | undefined): number => Number(time?.seconds ?? 0) + (time?.nanos ?? 0) / 1e9;
