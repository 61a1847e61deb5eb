import type { Catalog } from '../../catalog/contract.ts';
import type { ReportSettings } from '../../schemas/configuration.ts';
import type { ScheduleClock } from '../../operations/missed-runs.ts';

/** What control activities ask Temporal. */
export interface Runs {
  /** Whether a run still goes on; false when it is closed or unknown. Without a run id: the newest of that workflow id. */
  isRunning(workflowId: string, runId?: string): Promise<boolean>;
  /** Tells a waiting operation that it was granted what it asked for. A run that is gone is no error. */
  signalGranted(workflowId: string, runId: string): Promise<void>;
}

export interface ControlDependencies {
  catalog: Catalog;
  runs: Runs;
  clock: ScheduleClock;
  /** Where reports go. */
  report: ReportSettings;
  /** After this long without a heartbeat a copy counts as lost. */
  heartbeatSeconds: number;
}
