import { ScheduleNotFoundError, type Client } from '@temporalio/client';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { ScheduleClock } from '../operations/missed-runs.ts';
import { scheduleId } from '../schemas/schedule.ts';

type MatchingTimes = Parameters<Client['workflowService']['listScheduleMatchingTimes']>[0];
const startTime = defineSearchAttributeKey('TemporalScheduledStartTime', 'DATETIME');

/** What Temporal knows of our schedules' times, asked by a client. */
export const scheduleClockOf = (client: Client): ScheduleClock => ({
  async look(name) {
    try {
      const { state, info } = await client.schedule.getHandle(scheduleId(name)).describe();
      return {
        paused: state.paused,
        note: state.note === undefined || state.note === '' ? null : state.note,
        next: info.nextActionTimes.map((time) => time.toISOString()),
      };
    } catch (error) {
      if (error instanceof ScheduleNotFoundError) return undefined;
      throw error;
    }
  },

  async matching(name, from, to) {
    const { startTime: times } = await client.workflowService.listScheduleMatchingTimes({
      namespace: client.options.namespace,
      scheduleId: scheduleId(name),
      startTime: timestamp(from),
      endTime: timestamp(to),
    });
    return times.map(({ seconds, nanos }) =>
      new Date(Number(seconds ?? 0) * 1000 + Math.floor((nanos ?? 0) / 1e6)).toISOString(),
    );
  },

  async started(name, since) {
    const times: string[] = [];
    const query = `TemporalScheduledById = "${scheduleId(name)}" AND StartTime >= "${since}"`;
    for await (const run of client.workflow.list({ query })) {
      const time = run.typedSearchAttributes.get(startTime);
      if (time !== undefined) times.push(time.toISOString());
    }
    return times;
  },
});

function timestamp(time: string): NonNullable<MatchingTimes['startTime']> {
  const ms = Date.parse(time);
  return { seconds: Math.floor(ms / 1000) as never, nanos: (ms % 1000) * 1e6 };
}
