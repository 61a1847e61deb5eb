import type { Backup } from '../../schemas/backup.ts';
import type { CompletedBackup } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupPlan } from '../../schemas/plan.ts';
import { uselessOf } from './choose-parent.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createCommitBackup = ({ catalog }: ControlDependencies) => ({
  /**
   * Lists a backup whose manifest is written, and only now lets the next one build on its checkpoint. Repeatable: a commit
   * whose answer was lost lists it once.
   */
  async commitBackup(plan: BackupPlan, completed: CompletedBackup): Promise<Backup> {
    const { backupId, target } = plan;
    await catalog.backups.complete(completed);
    const current = await catalog.backups.current(target.vm.uuid, target.repository.name);
    const isNewest = current?.backup.id === backupId; // not so when it is listed late, after a forced end
    await catalog.checkpoints.retireOf(target.vm.uuid, [
      ...uselessOf(plan.passedOver ?? []),
      ...(plan.spentCheckpoints ?? []),
    ]);
    if (plan.checkpoint && isNewest)
      await catalog.checkpoints.promote(target.vm.uuid, backupId, target.keepCheckpoints);
    else if (plan.endOfChain || (isNewest && target.strategy === 'snapshot'))
      await catalog.checkpoints.retire(target.vm.uuid, target.repository.name); // nothing builds on it
    await catalog.vms.setState(target.vm.uuid, 'Idle');
    const record = await catalog.backups.find(backupId);
    if (record === undefined) throw new HoldfastError('BackupNotFound', `backup ${backupId} is not in the catalog`);
    await catalog.events.record({
      at: new Date().toISOString(),
      kind: 'backup-stored',
      vmUuid: target.vm.uuid,
      backupId,
      message: `${plan.type} backup of VM ${target.vm.name} stored in ${target.repository.name}`,
    });
    if (plan.passedOver !== undefined && plan.passedOver.length > 0) {
      const younger = plan.passedOver.map(({ id, reason }) => `${id} (${reason})`).join(', ');
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'parents-passed-over',
        vmUuid: target.vm.uuid,
        backupId,
        message: `backup ${backupId} of VM ${target.vm.name} is built on ${plan.parentId ?? 'nothing'}, not on the younger ${younger}`,
        detail: { parentId: plan.parentId, passedOver: plan.passedOver },
      });
    }
    return record.backup;
  },

  /**
   * Notes that a backup did not come about, and why; one that is listed is left alone. `leftOver` names undo steps that
   * failed: then the VM is marked, because something may still be on it.
   */
  async recordFailure(
    backupId: string,
    type: string,
    message: string,
    leftOver: { step: string; cause: string }[],
  ): Promise<void> {
    const record = await catalog.backups.find(backupId);
    if (record === undefined || record.backup.state === 'BackedUp') return;
    const { vm } = record.backup;
    const clean = leftOver.length === 0;
    await catalog.backups.fail(backupId, clean ? 'Failed' : 'Error', { type, message });
    if (clean) {
      await catalog.checkpoints.remove(vm.uuid, backupId);
      const before = (await catalog.vms.find(vm.uuid))?.error ?? null;
      await catalog.vms.setState(vm.uuid, before === null ? 'Idle' : 'BackupError', before);
    } else {
      const left = leftOver.map(({ step, cause }) => `${step}: ${cause}`).join('; ');
      await catalog.vms.setState(vm.uuid, 'BackupError', `backup ${backupId} could not be undone (${left})`);
    }
    await catalog.events.record({
      at: new Date().toISOString(),
      kind: 'backup-failed',
      vmUuid: vm.uuid,
      backupId,
      message: `${type}: ${message}`,
    });
  },
});
