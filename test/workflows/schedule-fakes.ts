import type { BegunScheduleRun, DueVm, ScheduleTask } from '../../schemas/schedule.ts';
import type { FakeActivities } from './workflow-suite.ts';

const RUN_ID = '5a0c3f1e-9d0e-4b9c-8f43-0a4d0f8e9b21';
const NOW = '2026-11-21T12:00:00.000Z';
const TASKS = {
  runSchedule: { kind: 'backup', offering: 'gold', vms: [], full: false, isolated: false },
  rehearse: {
    kind: 'rehearsal',
    offering: null,
    vms: [],
    everySeconds: 86_400,
    budgetSeconds: null,
    maxVms: null,
    steps: ['hash', 'boot'],
  },
  scheduledCheck: {
    kind: 'check',
    repository: 'main',
    verifyWithinSeconds: 30 * 86_400,
    samplePercent: null,
    rateBytesPerSecond: null,
  },
  sendReport: {
    kind: 'report',
    sinceSeconds: 86_400,
    promiseSeconds: null,
    webhook: true,
    mailTo: ['ops@example.org'],
  },
} as const satisfies Record<string, ScheduleTask>;

export const SCHEDULE_REQUEST = { schedule: 'nightly' };

/** Two VMs: what the stand-ins of `fixtures/scheduled.ts` do is told by the beginning of what they are given. */
export const dueVms = (first: string, second: string): DueVm[] =>
  [first, second].map((letter, position) => {
    const id = `${letter}f1c1e0e-57a4-4d55-9c0c-00000000000${position}`;
    return { position, uuid: id, name: `web-${position}`, backupId: id };
  });

/** Steps of a scheduled run that goes well; a test replaces those that do not. */
export const scheduleSteps = (workflow: keyof typeof TASKS, due = dueVms('a', 'a')): FakeActivities => {
  const begun: BegunScheduleRun = {
    runId: RUN_ID,
    schedule: {
      name: 'nightly',
      task: TASKS[workflow],
      timing: { kind: 'every', everySeconds: 86_400 },
      timezone: 'UTC',
      windowSeconds: null,
      jitterSeconds: 0,
      catchUpSeconds: 7200,
      overlap: 'skip',
      parallel: 50,
      longestGapSeconds: 86_400,
      note: null,
    },
    scheduledAt: NOW,
    windowEndsAt: null,
    tooLate: '',
    vms: due.length,
  };
  const summary = { schedule: 'nightly', runId: RUN_ID, scheduledAt: NOW, done: 2, failed: 0, skipped: 0, missed: 0 };
  return {
    noteMissedRuns: () => Promise.resolve(0),
    noteAllMissedRuns: () => Promise.resolve(),
    beginScheduleRun: () => Promise.resolve(begun),
    dueVms: (...[, after]: [string, number]) => Promise.resolve(due.filter(({ position }) => position > after)),
    vmStarted: () => Promise.resolve(),
    vmEnded: () => Promise.resolve(),
    missDueVms: () => Promise.resolve(),
    endScheduleRun: () => Promise.resolve(summary),
    scheduledCheckRequest: () => Promise.resolve({ repository: 'main' }),
    postReport: () => Promise.resolve(),
    mailReport: () => Promise.resolve(),
  };
};
