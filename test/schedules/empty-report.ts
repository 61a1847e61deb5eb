import type { Report } from '../../schemas/report.ts';

/** Of a day on which nothing happened. */
export const emptyReport = (more: Partial<Report> = {}): Report => ({
  id: '2f31b7a4-8c1e-4e0e-9d53-6c2b6b0d7c11',
  since: '2026-11-20T12:00:00.000Z',
  until: '2026-11-21T12:00:00.000Z',
  ok: true,
  counts: { backups: 0, restores: 0, validations: 0, failures: 0, notRun: 0, late: 0, unproved: 0, unprotected: 0 },
  backups: [],
  restores: [],
  validations: [],
  checks: [],
  failures: [],
  notRun: [],
  late: [],
  unproved: [],
  proved: [],
  unscheduled: [],
  unprotected: [],
  sizes: { storedBytes: 0, addedBytes: 0, repositories: [] },
  ...more,
});
