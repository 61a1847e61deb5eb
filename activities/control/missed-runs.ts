import { noteMissedRuns } from '../../operations/missed-runs.ts';
import { settleOutcomes } from '../../operations/settle-outcomes.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createMissedRuns = ({ catalog, runs, clock }: ControlDependencies) => ({
  /** Notes which runs of a schedule were missed or skipped, and what former runs could not note. Gives how many. */
  async noteMissedRuns(name: string): Promise<number> {
    await settleOutcomes(catalog, runs);
    const record = await catalog.schedules.find(name);
    return record === undefined ? 0 : (await noteMissedRuns(catalog, clock, record)).length;
  },
});
