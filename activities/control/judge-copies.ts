import type { CompletedCopy, CopyRecord } from '../../catalog/contract.ts';
import type { RescannedVm } from '../../catalog/rescans.ts';
import { manifestKey } from '../../repository/layout.ts';
import type { BackupDiskRecord } from '../../schemas/catalog.ts';
import type { FoundBackup, FoundVm, RescanFinding } from '../../schemas/rescan.ts';
import { COPIES_ALONE, isMarked, MARK, parentsFirst, rescannedBackup } from './judge-rescan.ts';

/** What the catalog knows of the copies of one VM's backups in the repository, and of where their originals are. */
export interface KnownCopies {
  copies: readonly CopyRecord[];
  /** The repository of the original, of those that are found here and known as another's. */
  elsewhere: ReadonlyMap<string, string>;
  /** Backups that are known as this repository's own. */
  own: ReadonlySet<string>;
  /** Names of repositories by their id. */
  repositories: ReadonlyMap<string, string>;
}

export interface JudgedCopies {
  /** What is to be noted anew; all else is known already. */
  notes: (CompletedCopy & { backupId: string })[];
  /** Marks that change. */
  damage: { id: string; damage: string | null }[];
  /** Of which there is nothing any more; what was to be seen is made again by the next `repo copy`. */
  lost: { id: string; wasListed: boolean }[];
  /** Originals that nobody knew, in their own repositories: as long as nobody looked there they count as gone. */
  originals: RescannedVm[];
  findings: RescanFinding[];
  added: number;
  changed: number;
}

/**
 * Parts what was found of a VM into backups of this repository and copies of another's. A copy whose original's repository is not
 * known to the catalog counts as a backup of this one: then there is nothing else to restore from.
 */
export function partCopies(found: FoundVm, known: KnownCopies): { own: FoundVm; copied: FoundVm } {
  const copied = new Set([...known.copies.map(({ backupId }) => backupId), ...known.elsewhere.keys()]);
  const isCopy = ({ id, copiedFrom }: FoundBackup): boolean => {
    if (copiedFrom === undefined || known.own.has(id)) return false;
    return known.elsewhere.has(id) || known.repositories.has(copiedFrom.repositoryId);
  };
  const ofCopy = ({ backupId }: { backupId: string }): boolean => copied.has(backupId);
  return {
    own: {
      ...found,
      backups: found.backups.filter((backup) => !isCopy(backup)),
      unreadable: found.unreadable.filter((one) => !ofCopy(one)),
    },
    copied: { ...found, backups: found.backups.filter(isCopy), unreadable: found.unreadable.filter(ofCopy) },
  };
}

/** What a catalog makes of the copies of one VM's backups that were found in a repository, or that should be there. */
export function judgeCopies(found: FoundVm, known: KnownCopies): JudgedCopies {
  const byId = new Map(known.copies.map((copy) => [copy.backupId, copy]));
  const causes = causesOf(found);
  const judged: JudgedCopies = {
    notes: [],
    damage: [],
    lost: [],
    originals: originalsOf(found, known),
    findings: [],
    added: 0,
    changed: 0,
  };
  for (const backup of parentsFirst(found.backups)) {
    const { id, copiedFrom, type, parentId, disks } = backup;
    const before = byId.get(id);
    if (before?.state === 'Copying' || copiedFrom === undefined) continue;
    const cause = causes.get(id);
    const isNoted = before !== undefined && isThere(before) && isSame(before, backup);
    if (!isNoted) {
      judged[before === undefined ? 'added' : 'changed'] += 1;
      const state = before?.state === 'Removed' ? 'Removed' : 'Copied';
      judged.notes.push({ backupId: id, state, type, parentId, disks, copiedAt: copiedFrom.copiedAt });
    }
    judge(id, isNoted ? before.damage : null, cause);
  }
  for (const { backupId, message } of found.unreadable) {
    const before = byId.get(backupId);
    const cause = `its manifest cannot be read: ${message}`;
    if (before !== undefined && isThere(before)) judge(backupId, before.damage, cause);
    else tell(backupId, 'damaged', cause);
  }
  const seen = new Set([...found.backups.map(({ id }) => id), ...found.unreadable.map(({ backupId }) => backupId)]);
  for (const copy of known.copies.filter((one) => isThere(one) && !seen.has(one.backupId))) {
    judged.lost.push({ id: copy.backupId, wasListed: copy.state === 'Copied' });
    judged.changed += 1;
    if (copy.state === 'Copied') {
      tell(copy.backupId, 'missing', `its manifest ${manifestKey(found.uuid, copy.backupId)} is missing`);
    }
  }
  return judged;

  function tell(id: string, sort: 'missing' | 'damaged', message: string): void {
    judged.findings.push({ sort, vmUuid: found.uuid, backupId: id, message: `its copy here: ${message}` });
  }

  /** Marks of others say more than a look at lengths; they stay. */
  function judge(id: string, damage: string | null, cause: string | undefined): void {
    if (cause !== undefined) tell(id, 'damaged', cause);
    if (damage !== null && !isMarked(damage)) return;
    const now = cause === undefined ? null : `${MARK}${cause}`;
    if (now !== damage) judged.damage.push({ id, damage: now });
  }
}

const isThere = ({ state }: CopyRecord): boolean => state === 'Copied' || state === 'Removed';

const isSame = (copy: CopyRecord, { type, parentId, disks }: FoundBackup): boolean =>
  copy.type === type && copy.parentId === parentId && filesText(copy.disks) === filesText(disks);

/** What a manifest hides of a disk a catalog may know: only the files are compared. */
const filesText = (disks: readonly BackupDiskRecord[]): string =>
  disks
    .map(({ target, file, backingFile, sums }) => [target, file, backingFile, sums.sha256].join(' '))
    .toSorted()
    .join('\n');

/** Of each copy that is not whole why, by id: of itself, or of one that it is built on. */
function causesOf({ backups }: FoundVm): Map<string, string> {
  const causes = new Map<string, string>();
  const byId = new Map(backups.map((backup) => [backup.id, backup]));
  const broken = new Map<string, string>(); // by stored file
  for (const { id, parentId, disks, problems } of parentsFirst(backups)) {
    for (const { file, backingFile } of disks) {
      const own = problems.find((problem) => problem.file === file)?.message;
      const parent = parentId === null ? undefined : byId.get(parentId);
      const isNamed = backingFile === null || parent?.disks.some((disk) => disk.file === backingFile) === true;
      const beneath = isNamed ? broken.get(backingFile ?? '') : `no manifest names ${backingFile}`;
      const cause = own ?? (beneath === undefined ? undefined : builtOn(parentId, beneath));
      if (cause === undefined) continue;
      broken.set(file, cause);
      if (!causes.has(id)) causes.set(id, cause);
    }
  }
  return causes;
}

const builtOn = (parentId: string | null, cause: string): string =>
  cause.startsWith('it is built on') ? cause : `it is built on backup ${parentId ?? 'none'}: ${cause}`;

/** A copy belongs to a backup, also in a catalog that never saw the original. */
function originalsOf({ uuid, backups }: FoundVm, { elsewhere, repositories }: KnownCopies): RescannedVm[] {
  const unknown = parentsFirst(backups).filter(({ id }) => !elsewhere.has(id));
  const places = Map.groupBy(unknown, ({ copiedFrom }) => repositories.get(copiedFrom?.repositoryId ?? '') ?? '');
  return [...places].map(([repository, found]) => ({
    uuid,
    name: found.at(-1)?.vmName ?? uuid,
    host: found.at(-1)?.host ?? '',
    repository,
    backups: found.map((backup) => ({
      ...rescannedBackup({ ...backup, disks: [] }, undefined, null),
      state: 'Expunged' as const,
    })),
    chains: [...new Set(found.flatMap(({ chainId }) => chainId ?? []))].map((id) => ({
      id,
      state: 'ended' as const,
      size: found.filter(({ chainId }) => chainId === id).length,
      endedReason: COPIES_ALONE,
    })),
    checkpoints: [],
  }));
}
