/** Every workflow by the name it is started with. */
export { applyRetention } from './apply-retention.ts';
export { consolidateDisks } from './consolidate-disks.ts';
export { compressBackup } from './compress-backup.ts';
export { deleteBackup } from './delete-backup.ts';
export { finishChain } from './finish-chain.ts';
export { inventoryHost } from './inventory-host.ts';
export { normalizeVm } from './normalize-vm.ts';
export { probeVm } from './probe-vm.ts';
export { mergeBackups } from './merge-backups.ts';
export { reclaimOrphans } from './reclaim-orphans.ts';
export { rehearse } from './rehearse.ts';
export { restoreDisk } from './restore-disk.ts';
export { restoreVm } from './restore-vm.ts';
export { runSchedule } from './run-schedule.ts';
export { sendReport } from './send-report.ts';
export { takeBackup } from './take-backup.ts';
export { validateBackup } from './validate-backup.ts';
