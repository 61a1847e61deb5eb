import { workflowInfo } from '@temporalio/workflow';

/** The run that leases and backups are noted under. */
export function thisRun(): { workflowId: string; runId: string } {
  const { workflowId, runId } = workflowInfo();
  return { workflowId, runId };
}
