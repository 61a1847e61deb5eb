import { setTimeout as sleep } from 'node:timers/promises';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import { runId } from '../operations/run-id.ts';
import type { CommandContext } from './context.ts';

const PATIENCE_MS = 8_000;

/** Takes the inventory of all hosts. A host or a Temporal that does not answer soon is left as the catalog knows it. */
export async function refreshInventory(context: CommandContext): Promise<void> {
  const hosts = await (await context.catalog()).hosts.list();
  const client = await context.client().catch(() => undefined);
  if (client === undefined) {
    context.output.note('Temporal does not answer: shown is what the catalog knows');
    return;
  }
  const over = new AbortController();
  const patience = sleep(PATIENCE_MS, 'late' as const, { signal: over.signal }).catch(() => 'late' as const);
  await Promise.all(
    hosts.map(async ({ name }) => {
      const run = await client.workflow.start('inventoryHost', {
        taskQueue: CONTROL_QUEUE,
        workflowId: runId('inventory', name),
        workflowExecutionTimeout: '1 minute',
        args: [{ host: name }],
      });
      const outcome = run.result().then(
        () => 'taken' as const,
        () => 'failed' as const,
      );
      const answer = await Promise.race([outcome, patience]);
      if (answer !== 'taken') {
        context.output.note(`host ${name} does not answer: shown is what the catalog knows`);
      }
    }),
  );
  over.abort();
}
