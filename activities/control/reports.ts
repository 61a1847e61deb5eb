import { buildReport } from '../../operations/build-report.ts';
import { mailReport, postReport, webhookAddress } from '../../operations/deliver-report.ts';
import { noteMissedRuns } from '../../operations/missed-runs.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Report } from '../../schemas/report.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createReports = ({ catalog, clock, report: settings }: ControlDependencies) => {
  /** The report of a run: the same span and the same id, however often it is put together. */
  async function reportOf(runId: string): Promise<Report> {
    const run = await catalog.schedules.findRun(runId);
    const record = run && (await catalog.schedules.find(run.schedule));
    if (run === undefined || record?.schedule.task.kind !== 'report') {
      throw new HoldfastError(
        'ScheduleNotFound',
        `the schedule of run ${runId} is not known any more, or makes no report`,
      );
    }
    const { sinceSeconds, promiseSeconds } = record.schedule.task;
    const until = run.startedAt ?? run.scheduledAt;
    const since = new Date(Date.parse(run.scheduledAt) - sinceSeconds * 1000).toISOString();
    return await buildReport(catalog, { id: runId, since, until, promiseSeconds });
  }

  return {
    /** Notes what was missed of all schedules, so that the report can tell. */
    async noteAllMissedRuns(): Promise<void> {
      for (const record of await catalog.schedules.list()) await noteMissedRuns(catalog, clock, record);
    },

    /** @throws InvalidRequest, ReportNotDelivered, ReportRefused */
    async postReport(runId: string): Promise<void> {
      await postReport(await webhookAddress(settings), await reportOf(runId));
    },

    /** @throws InvalidRequest, ReportNotDelivered, ReportRefused */
    async mailReport(runId: string, to: string): Promise<void> {
      await mailReport(settings, to, await reportOf(runId));
    },
  };
};
