import { createAdmission } from './admission.ts';
import { createCheck } from './check.ts';
import { createCommitBackup } from './commit-backup.ts';
import { createConsolidate } from './consolidate.ts';
import { createCopies } from './copies.ts';
import { createDeleteBackup } from './delete-backup.ts';
import { createDeltas } from './deltas.ts';
import type { ControlDependencies } from './dependencies.ts';
import { createFindOrphans } from './find-orphans.ts';
import { createFindVm } from './find-vm.ts';
import { createFinishChain } from './finish-chain.ts';
import { createLocksToHold } from './locks-to-hold.ts';
import { createMissedRuns } from './missed-runs.ts';
import { createJudgeOrphans } from './judge-orphans.ts';
import { createPlanBackup } from './plan-backup.ts';
import { createResolveTarget } from './resolve-target.ts';
import { createRescan } from './rescan.ts';
import { createDiskRestore } from './restore-disk.ts';
import { createReports } from './reports.ts';
import { createRestore } from './restore.ts';
import { createMerge } from './merge.ts';
import { createRewrite } from './rewrite.ts';
import { createValidation } from './validation.ts';
import { createRetention } from './retention.ts';
import { createScheduleRuns } from './schedule-runs.ts';

/** Steps that need the catalog, on the queue `control`. */
export const createControlActivities = (dependencies: ControlDependencies) => ({
  ...createFindVm(dependencies),
  ...createResolveTarget(dependencies),
  ...createAdmission(dependencies),
  ...createPlanBackup(dependencies),
  ...createCommitBackup(dependencies),
  ...createDeltas(dependencies),
  ...createRestore(dependencies),
  ...createDiskRestore(dependencies),
  ...createConsolidate(dependencies),
  ...createFindOrphans(dependencies),
  ...createJudgeOrphans(dependencies),
  ...createLocksToHold(dependencies),
  ...createDeleteBackup(dependencies),
  ...createRetention(dependencies),
  ...createFinishChain(dependencies),
  ...createValidation(dependencies),
  ...createRewrite(dependencies),
  ...createMerge(dependencies),
  ...createCopies(dependencies),
  ...createScheduleRuns(dependencies),
  ...createMissedRuns(dependencies),
  ...createReports(dependencies),
  ...createRescan(dependencies),
  ...createCheck(dependencies),
});
export type ControlActivities = ReturnType<typeof createControlActivities>;
