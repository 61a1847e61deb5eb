import type { Delta } from '../../schemas/delta.ts';
import type { SettledDeltas } from '../host/merge-deltas.ts';
import type { ControlDependencies } from './dependencies.ts';

/** Overlays on a VM's disks: `keep`, because the next backup may build on them, and `drop`. */
export interface DeltasOnVm {
  keep: Delta[];
  drop: Delta[];
}

export const createDeltas = ({ catalog }: ControlDependencies) => {
  /** The newest backups of the VM's open chains, one per repository: only they are built on. */
  async function currentBackups(vmUuid: string): Promise<Set<string>> {
    const ids = new Set<string>();
    for (const { name } of await catalog.repositories.list()) {
      const current = await catalog.backups.current(vmUuid, name);
      if (current !== undefined) ids.add(current.backup.id);
    }
    return ids;
  }

  return {
    /** What the catalog knows of overlays on a VM's disks. */
    async deltasOnVm(vmUuid: string): Promise<DeltasOnVm> {
      const current = await currentBackups(vmUuid);
      const known = await catalog.deltas.list(vmUuid);
      return {
        keep: known.filter(({ backupId }) => current.has(backupId)),
        drop: known.filter(({ backupId }) => !current.has(backupId)),
      };
    },

    /** The overlays that a backup put on, with what they froze. */
    async recordDeltas(vmUuid: string, deltas: Delta[]): Promise<void> {
      await catalog.deltas.put(vmUuid, deltas);
    },

    /** Takes over what became of them; gives what cannot be settled, in words. */
    async deltasSettled(vmUuid: string, settled: SettledDeltas): Promise<string[]> {
      await catalog.deltas.remove(vmUuid, settled.forget);
      await catalog.deltas.put(vmUuid, settled.update);
      return [
        ...settled.postponed.map(({ path, reason }) => `overlay ${path} stays for now: ${reason}`),
        ...settled.anomalies,
      ];
    },

    /** The backup is stored, but overlays of earlier ones could not be merged: the VM goes on with them, and is marked. */
    async recordMergeFailure(vmUuid: string, cause: string): Promise<void> {
      await catalog.vms.setState(
        vmUuid,
        'BackupError',
        `overlays on its disks could not be merged (${cause}); it goes on with them; repair with: holdfast chain finish`,
      );
      await catalog.events.record({ at: new Date().toISOString(), kind: 'merge-failed', vmUuid, message: cause });
    },

    /** Nothing of a failed merge is on the VM any more. */
    async mergeRepaired(vmUuid: string): Promise<void> {
      const left = await catalog.backups.list({ vm: vmUuid, states: ['Error'] });
      const state = (await catalog.vms.find(vmUuid))?.state;
      if (left.length === 0 && state === 'BackupError') await catalog.vms.setState(vmUuid, 'Idle');
    },
  };
};
