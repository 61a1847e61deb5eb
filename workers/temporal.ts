import { Connection, WorkflowNotFoundError, type Client } from '@temporalio/client';
import { Runtime, NativeConnection } from '@temporalio/worker';
import type { Runs } from '../activities/control/dependencies.ts';
import { searchAttributes } from '../schemas/search-attributes.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TemporalOptions } from './installation.ts';

/** A connection for a worker; waits for a server that is not up yet, or not any more. */
export async function connectWorker(
  { address, connection }: TemporalOptions,
  signal: AbortSignal,
  log: (line: string) => void,
): Promise<NativeConnection> {
  for (let told = false; ; told = true) {
    try {
      return await NativeConnection.connect({ ...connection, address });
    } catch (error) {
      if (!told) log(`waiting for Temporal at ${address}: ${error instanceof Error ? error.message : String(error)}`);
      await sleep(1000, undefined, { signal });
    }
  }
}

/** Metrics for Prometheus, and log lines of warnings and errors only. Once per process, before the first worker. */
export function installRuntime({ metrics }: { metrics?: string | undefined }): void {
  Runtime.install({
    shutdownSignals: [], // the composition root ends its workers itself, and in order
    telemetryOptions: {
      logging: { filter: 'ERROR', forward: {} },
      ...(metrics === undefined ? {} : { metrics: { prometheus: { bindAddress: metrics } } }),
    },
  });
}

/** Makes the namespace know our search attributes; those it knows already are left as they are. */
export async function registerSearchAttributes(client: Client, namespace: string): Promise<void> {
  const connection: unknown = client.connection;
  if (!(connection instanceof Connection)) throw new Error('this client cannot register search attributes');
  const { operatorService } = connection;
  const known = await operatorService.listSearchAttributes({ namespace });
  const missing = Object.values(searchAttributes).filter(({ name }) => !(name in known.customAttributes));
  if (missing.length === 0) return;
  const KEYWORD = 2; // temporal.api.enums.v1.IndexedValueType
  await operatorService.addSearchAttributes({
    namespace,
    searchAttributes: Object.fromEntries(missing.map(({ name }) => [name, KEYWORD])),
  });
}

/** What control activities ask Temporal, answered by a client. */
export const runsOf = (client: Client): Runs => ({
  async isRunning(workflowId, runId) {
    try {
      const { status } = await client.workflow.getHandle(workflowId, runId).describe();
      return status.name === 'RUNNING';
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return false;
      throw error;
    }
  },
  async signalGranted(workflowId, runId) {
    try {
      await client.workflow.getHandle(workflowId, runId).signal('admissionGranted');
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
    }
  },
});
