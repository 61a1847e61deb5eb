import { defineSearchAttributeKey } from '@temporalio/common';
import { workflowInfo } from '@temporalio/workflow';

const startTime = defineSearchAttributeKey('TemporalScheduledStartTime', 'DATETIME');

/** The time this run was scheduled for, without jitter; of a run started by hand, the time it began. */
export function scheduledTime(): string {
  const { typedSearchAttributes, runStartTime } = workflowInfo();
  return (typedSearchAttributes.get(startTime) ?? runStartTime).toISOString();
}
