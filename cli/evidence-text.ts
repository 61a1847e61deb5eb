import type { BackupEvidence } from '../operations/evidence.ts';
import { shortId } from './output.ts';

/** How a backup came about, for people: one subject in a line. */
export function evidenceText(evidence: BackupEvidence): string {
  const { requestedBy, run, freezeMs, notFrozen, attempts, resumedSegments = {}, versions } = evidence;
  const frozen =
    freezeMs === null ? `not frozen${notFrozen === null ? '' : `: ${notFrozen}`}` : `frozen ${freezeMs} ms`;
  const copies = Object.entries(attempts).map(([target, count]) => {
    const resumed = resumedSegments[target] ?? 0;
    return `${target} ${count}${resumed === 0 ? '' : ` (${resumed} segments resumed)`}`;
  });
  return [
    `asked by: ${requestedBy ?? 'not told'}`,
    ...(run === undefined
      ? []
      : [
          `run: ${run.workflowId} (${run.runId}), ${run.beganAt} to ${run.endedAt}`,
          `went by: ${run.offering === null ? 'no offering' : `offering ${run.offering}`}, tenant ${run.tenant}, strategy ${evidence.strategy ?? 'unknown'}, quiesce ${run.quiesce}`,
        ]),
    `guest: ${frozen}`,
    `attempts: ${copies.join(', ')}`,
    ...evidence.skippedDisks.map(({ target, reason }) => `left out: ${target}, ${reason}`),
    ...evidence.passedOver.map(({ id, reason }) => `not built on the younger ${shortId(id)}: ${reason}`),
    `versions: ${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}`,
  ].join('\n');
}
