import { z } from 'zod';

const vm = z.object({ uuid: z.string().nullable(), name: z.string() });
const time = z.string();

/** What happened in a span of time, and how well each VM is protected at its end. */
export const report = z.object({
  /** The same for every attempt to deliver it. */
  id: z.string(),
  since: time,
  until: time,
  /** Nothing below needs a person. */
  ok: z.boolean(),
  counts: z.object({
    backups: z.int(),
    restores: z.int(),
    validations: z.int(),
    failures: z.int(),
    notRun: z.int(),
    late: z.int(),
    unproved: z.int(),
    unprotected: z.int(),
  }),
  backups: z.array(
    z.object({
      id: z.string(),
      vm,
      type: z.string(),
      at: time,
      storedBytes: z.int(),
      durationMs: z.int(),
      requestedBy: z.string().nullable(),
    }),
  ),
  restores: z.array(z.object({ at: time, backupId: z.string().nullable(), message: z.string() })),
  validations: z.array(z.object({ backupId: z.string(), vm, at: time, state: z.string(), reason: z.string() })),
  /** Comparisons of stored bytes with their hashes. */
  checks: z.array(
    z.object({ at: time, repository: z.string(), files: z.int(), bytes: z.int(), damagedFiles: z.int() }),
  ),
  failures: z.array(z.object({ what: z.string(), vm: vm.nullable(), at: time, cause: z.string() })),
  /** Runs, and turns of VMs within runs, that were skipped or missed. */
  notRun: z.array(
    z.object({
      schedule: z.string(),
      vm: vm.nullable(),
      scheduledAt: time,
      state: z.enum(['skipped', 'missed']),
      reason: z.string(),
    }),
  ),
  /** Protected VMs whose newest good backup is older than promised, or that have none. */
  late: z.array(
    z.object({ vm, lastGoodAt: time.nullable(), promiseSeconds: z.int().nullable(), lastSeenAt: time.nullable() }),
  ),
  /** Protected VMs that never booted from a backup, or not within the time that a rehearsal promises. */
  unproved: z.array(z.object({ vm, lastProvedAt: time.nullable(), withinSeconds: z.int().nullable() })),
  /** When the others last booted from a backup. */
  proved: z.array(z.object({ vm, lastProvedAt: time, bootMs: z.int().nullable() })),
  /** An offering and no schedule: backed up when somebody asks for it. */
  unscheduled: z.array(vm),
  /** Neither offering nor schedule. */
  unprotected: z.array(vm),
  sizes: z.object({
    storedBytes: z.int(),
    addedBytes: z.int(),
    repositories: z.array(
      /** `unverifiedSince`: the longest that a file of it was not compared with its hashes. */
      z.object({ name: z.string(), backups: z.int(), storedBytes: z.int(), unverifiedSince: time.nullable() }),
    ),
  }),
});
export type Report = z.infer<typeof report>;
