import type { Catalog, ProvenBackup } from '../catalog/contract.ts';
import type { VmRecord } from '../schemas/catalog.ts';
import { checkedRepository } from '../schemas/check.ts';
import type { Report } from '../schemas/report.ts';
import type { Schedule } from '../schemas/schedule.ts';
import { reasonOf } from '../schemas/validation.ts';

export interface ReportRequest {
  id: string;
  since: string;
  until: string;
  /** How old the newest good backup of a protected VM may be; null = twice the longest time between its scheduled runs. */
  promiseSeconds: number | null;
}

/** Events that tell of a failure no backup and no schedule tells of. */
const FAILED_EVENTS: Record<string, string> = {
  'restore-failed': 'restore',
  'delete-stopped': 'delete',
  'compression-failed': 'compression',
  'merge-failed': 'merge',
  'backup-damaged': 'stored backup',
};
const RESTORED = new Set(['vm-restored', 'disk-restored']);
const MOST_EVENTS = 10_000;

/** Puts together what the catalog knows of a span of time, and how well each VM is protected at its end. */
export async function buildReport(catalog: Catalog, request: ReportRequest): Promise<Report> {
  const { id, since, until } = request;
  const within = (at: string): boolean => at >= since && at <= until;
  const [vms, records, all, taken, events] = await Promise.all([
    catalog.vms.list(),
    catalog.schedules.list(),
    catalog.proofs.backups(),
    catalog.proofs.takenSince(since),
    catalog.events.list({ since, limit: MOST_EVENTS }),
  ]);
  const schedules = records.map(({ schedule }) => schedule);
  const backups = taken.filter(({ stored, at }) => stored && within(at));
  const protection = protectionOf(vms, schedules, all, request);
  const validations = await Promise.all(
    all
      .filter(({ validatedAt }) => validatedAt !== null && within(validatedAt))
      .map(async ({ id: backupId, vm, validatedAt }) => {
        const result = await catalog.validations.resultOf(backupId);
        const reason = result === null ? '' : reasonOf(result);
        return { backupId, vm, at: validatedAt ?? '', state: result?.state ?? 'UnableToValidate', reason };
      }),
  );
  const runs = await catalog.schedules.runs({ since, states: ['missed', 'skipped', 'failed'] });
  const outcomes = await catalog.schedules.outcomesSince(since, ['missed', 'skipped', 'failed']);
  const toldByBackup = new Set(taken.flatMap(({ failure, runId }) => (failure === null ? [] : [runId])));
  const failures: Report['failures'] = [
    ...taken.flatMap(({ failure, vm, at }) =>
      failure === null || !within(at) ? [] : [{ what: 'backup', vm, at, cause: `${failure.type}: ${failure.message}` }],
    ),
    ...outcomes.flatMap(({ kind, state, vm, endedAt, scheduledAt, reason, workflowRunId, schedule }) =>
      state !== 'failed' || !within(scheduledAt) || (workflowRunId !== null && toldByBackup.has(workflowRunId))
        ? []
        : [{ what: `${kind} by schedule ${schedule}`, vm, at: endedAt ?? scheduledAt, cause: reason ?? '' }],
    ),
    ...runs.flatMap(({ kind, state, schedule, scheduledAt, reason }) =>
      state !== 'failed' || (kind !== 'report' && kind !== 'check') || !within(scheduledAt)
        ? []
        : [{ what: `${kind} by schedule ${schedule}`, vm: null, at: scheduledAt, cause: reason ?? '' }],
    ),
    ...events.flatMap(({ kind, at, vmUuid, message }) => {
      const what = FAILED_EVENTS[kind];
      if (what === undefined || !within(at)) return [];
      const vm = vms.find(({ uuid }) => uuid === vmUuid);
      return [{ what, vm: vm === undefined ? null : { uuid: vm.uuid, name: vm.name }, at, cause: message }];
    }),
    ...validations.flatMap(({ state, vm, at, reason, backupId }) =>
      state === 'Valid' || outcomes.some((outcome) => outcome.backupId === backupId && outcome.kind === 'rehearsal')
        ? []
        : [{ what: 'validation', vm, at, cause: `${state}: ${reason}` }],
    ),
  ].toSorted((a, b) => b.at.localeCompare(a.at));
  const notRun: Report['notRun'] = [
    ...runs.flatMap(({ schedule, scheduledAt, state, reason }) =>
      state === 'missed' || state === 'skipped'
        ? [{ schedule, vm: null, scheduledAt, state, reason: reason ?? '' }]
        : [],
    ),
    ...outcomes.flatMap(({ schedule, vm, scheduledAt, state, reason }) =>
      state === 'missed' || state === 'skipped' ? [{ schedule, vm, scheduledAt, state, reason: reason ?? '' }] : [],
    ),
  ].filter(({ scheduledAt }) => within(scheduledAt));
  const restores = events
    .filter(({ kind, at }) => RESTORED.has(kind) && within(at))
    .map(({ at, backupId, message }) => ({ at, backupId, message }));
  const { late, unproved, proved, unscheduled, unprotected } = protection;
  const checks = events.flatMap(({ kind, at, detail }) => {
    const checked = kind === 'repository-checked' && within(at) ? checkedRepository.safeParse(detail).data : undefined;
    return checked === undefined ? [] : [{ at, ...checked }];
  });
  const there = all.filter(({ isThere }) => isThere);
  return {
    id,
    since,
    until,
    ok: failures.length + notRun.length + late.length === 0,
    counts: {
      backups: backups.length,
      restores: restores.length,
      validations: validations.length,
      failures: failures.length,
      notRun: notRun.length,
      late: late.length,
      unproved: unproved.length,
      unprotected: unprotected.length,
    },
    backups: backups.map(({ id: backupId, vm, type, at, storedBytes, durationMs, requestedBy }) => ({
      id: backupId,
      vm,
      type,
      at,
      storedBytes,
      durationMs,
      requestedBy,
    })),
    restores,
    validations,
    checks,
    failures,
    notRun,
    late,
    unproved,
    proved,
    unscheduled,
    unprotected,
    sizes: {
      storedBytes: sum(there),
      addedBytes: sum(backups),
      repositories: (
        await Promise.all(
          [...Map.groupBy(there, ({ repository }) => repository)].map(async ([name, of]) => ({
            name,
            backups: of.length,
            storedBytes: sum(of),
            unverifiedSince: await catalog.checks.unverifiedSince(name, null),
          })),
        )
      ).toSorted((a, b) => a.name.localeCompare(b.name)),
    },
  };
}

type Protection = Pick<Report, 'late' | 'unproved' | 'proved' | 'unscheduled' | 'unprotected'>;

/** How well each VM is protected at the end of the span. */
export function protectionOf(
  vms: Pick<VmRecord, 'uuid' | 'name' | 'offering' | 'lastSeenAt'>[],
  schedules: Pick<Schedule, 'task' | 'longestGapSeconds'>[],
  backups: Pick<ProvenBackup, 'vm' | 'instant' | 'isGood' | 'provedAt' | 'bootMs'>[],
  { until, promiseSeconds }: Pick<ReportRequest, 'until' | 'promiseSeconds'>,
): Protection {
  const byVm = Map.groupBy(backups, ({ vm }) => vm.uuid);
  const found: Protection = { late: [], unproved: [], proved: [], unscheduled: [], unprotected: [] };
  const tooOld = (at: string | null, seconds: number): boolean =>
    at === null || Date.parse(at) + seconds * 1000 < Date.parse(until);
  for (const record of vms) {
    const vm = { uuid: record.uuid, name: record.name };
    const mine = schedules.filter(({ task }) => covers(task, record));
    const backedUp = mine.filter(({ task }) => task.kind === 'backup');
    if (record.offering === null && backedUp.length === 0) {
      found.unprotected.push(vm);
      continue;
    }
    if (backedUp.length === 0) found.unscheduled.push(vm);
    const of = byVm.get(record.uuid) ?? [];
    const lastGoodAt = latest(
      of.filter(({ isGood, instant }) => isGood && instant <= until).map(({ instant }) => instant),
    );
    const gaps = backedUp.flatMap(({ longestGapSeconds }) => (longestGapSeconds === null ? [] : [longestGapSeconds]));
    const promise = promiseSeconds ?? (gaps.length === 0 ? null : 2 * Math.min(...gaps));
    if (promise === null ? lastGoodAt === null : tooOld(lastGoodAt, promise)) {
      found.late.push({ vm, lastGoodAt, promiseSeconds: promise, lastSeenAt: record.lastSeenAt });
    }
    const lastProvedAt = latest(of.map(({ provedAt }) => provedAt));
    const rehearsed = mine.flatMap(({ task }) => (task.kind === 'rehearsal' ? [task.everySeconds] : []));
    const withinSeconds = rehearsed.length === 0 ? null : Math.min(...rehearsed);
    if (lastProvedAt === null || (withinSeconds !== null && tooOld(lastProvedAt, withinSeconds))) {
      found.unproved.push({ vm, lastProvedAt, withinSeconds });
    } else {
      const bootMs = of.find(({ provedAt }) => provedAt === lastProvedAt)?.bootMs ?? null;
      found.proved.push({ vm, lastProvedAt, bootMs });
    }
  }
  return found;
}

const covers = (task: Schedule['task'], vm: Pick<VmRecord, 'uuid' | 'name' | 'offering'>): boolean => {
  if (task.kind === 'report' || task.kind === 'check') return false;
  if (task.kind === 'rehearsal' && task.offering === null && task.vms.length === 0) return vm.offering !== null;
  return (
    (task.offering !== null && task.offering === vm.offering) ||
    task.vms.some((named) => named === vm.name || named.toLowerCase() === vm.uuid)
  );
};

const latest = (times: (string | null)[]): string | null =>
  times.reduce((newest, time) => (time !== null && (newest === null || time > newest) ? time : newest), null);

const sum = (of: { storedBytes: number }[]): number => of.reduce((total, { storedBytes }) => total + storedBytes, 0);
