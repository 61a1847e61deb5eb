import type { Client } from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import type { ProbeVmRequest, VmProbe } from '../schemas/probe.ts';
import { describeFailure } from './describe-failure.ts';
import { runId } from './run-id.ts';

const PATIENCE_MS = 20_000;

/** What a VM's host shows of it now; or why it shows nothing. Never fails, and never waits long. */
export async function probeVm(
  client: () => Promise<Client>,
  request: ProbeVmRequest,
  vmName: string,
  patienceMs = PATIENCE_MS,
): Promise<{ probe: VmProbe; why: null } | { probe: null; why: string }> {
  try {
    const run = await (
      await client()
    ).workflow.start('probeVm', {
      taskQueue: CONTROL_QUEUE,
      workflowId: runId('probeVm', vmName),
      workflowExecutionTimeout: '1 minute',
      args: [request],
    });
    const late = sleep(patienceMs, null, { ref: false });
    const answer = await Promise.race([run.result() as Promise<VmProbe>, late]);
    if (answer !== null) return { probe: answer, why: null };
    return { probe: null, why: `its host did not answer within ${Math.round(patienceMs / 1000)} s` };
  } catch (error) {
    return { probe: null, why: describeFailure(error).message };
  }
}
