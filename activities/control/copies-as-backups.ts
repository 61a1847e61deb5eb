import type { BackupRecord, Catalog, CopyRecord } from '../../catalog/contract.ts';
import type { CopyState } from '../../schemas/copy.ts';
import type { BackupState, ValidationState } from '../../schemas/states.ts';

const STATES: Record<CopyState, BackupState> = {
  Copying: 'BackingUp',
  Copied: 'BackedUp',
  CopyError: 'Failed',
  Removed: 'Removed',
  Expunged: 'Expunged',
};

/** Copies whose files are in their repository, or may come to be. */
export const PRESENT_COPIES: CopyState[] = ['Copying', 'Copied', 'Removed'];

/**
 * A copy as if it were a backup of its repository, so that the rules of chains, deletes and retention are the same for both.
 * What compresses, validates or damages the original's files says nothing of the copy's; what was found of the guest
 * within does.
 */
export const asBackup = (original: BackupRecord, copy: CopyRecord): BackupRecord => ({
  ...original,
  disks: copy.disks,
  damage: copy.damage,
  failure: copy.failure,
  backup: {
    ...original.backup,
    state: STATES[copy.state],
    type: copy.type,
    parentId: copy.parentId,
    repository: copy.repository,
    compression: 'None',
    validation: contentOf(original),
    storedBytes: copy.storedBytes,
  },
});

const contentOf = ({ damage, backup: { validation } }: BackupRecord): ValidationState =>
  validation === 'NotValid' && damage === null ? 'NotValid' : 'NotValidated';

/** The copies of a VM's backups that are in a repository, as its backups. */
export async function copiesAsBackups(catalog: Catalog, vmUuid: string, repository: string): Promise<BackupRecord[]> {
  const copies = await catalog.copies.list({ vm: vmUuid, repository, states: PRESENT_COPIES });
  if (copies.length === 0) return [];
  const byId = new Map(copies.map((copy) => [copy.backupId, copy]));
  const originals = await catalog.backups.records({ vm: vmUuid, all: true });
  return originals.flatMap((original) => {
    const copy = byId.get(original.backup.id);
    return copy === undefined ? [] : [asBackup(original, copy)];
  });
}
