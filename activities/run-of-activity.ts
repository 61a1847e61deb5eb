import { Context } from '@temporalio/activity';

/** The workflow run that the present step belongs to. */
export function runOfActivity(): { workflowId: string; runId: string } {
  const { workflowExecution } = Context.current().info;
  if (workflowExecution === undefined) throw new TypeError('this activity runs outside of a workflow');
  const { workflowId, runId } = workflowExecution;
  return { workflowId, runId };
}
