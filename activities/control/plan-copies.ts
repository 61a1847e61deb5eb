import type { BackupRecord, CopyRecord } from '../../catalog/contract.ts';
import type { BackupToCopy, BlockedCopy, CopyState } from '../../schemas/copy.ts';
import type { FailureType } from '../../schemas/failures.ts';
import type { RetentionRules } from '../../schemas/retention.ts';
import type { BackupState } from '../../schemas/states.ts';
import { planRetention, type JudgedBackup } from './plan-retention.ts';

/** Is whole, and can be copied. A `Removed` one has its files for those that are built on it. */
const HAS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed'];
const LISTED: BackupState[] = ['BackedUp', 'Restoring'];
/** Can be built on in the repository. */
const BEARS: CopyState[] = ['Copied', 'Removed'];

export interface CopiesToMake {
  /** Parents before their children. */
  steps: BackupToCopy[];
  /** Hidden copies whose files are there, and that are wanted again. */
  revived: string[];
  /** Wanted ones that are there, or are being copied. */
  present: number;
  blocked: BlockedCopy[];
}

/**
 * Which backups of a VM are copied to a repository, and in which order: before each backup those it is built on, as far as
 * they are not there. Of all backups, those are wanted that have no copy there yet; what retention or a person let go there
 * does not come back, unless it is asked for by its id or others are built on it.
 * @param backups all backups of the VM that are not expunged, in any order
 * @param copies what the catalog knows of their copies in the repository
 */
export function planCopies(
  backups: readonly BackupRecord[],
  copies: readonly CopyRecord[],
  options: {
    to: string;
    /** One backup, by its id. Default: all. */
    only?: string;
    /** Only backups of this repository. */
    from?: string;
    /** What is kept there: what these rules would let go at once is not copied. */
    rules: RetentionRules | null;
    /** Repositories that nothing is copied from, and why. */
    refused: ReadonlyMap<string, string>;
    /** Not to be tried. */
    without: ReadonlySet<string>;
    now: Date;
  },
): CopiesToMake {
  const { to, only, from, rules, refused, without, now } = options;
  const byId = new Map(backups.map((record) => [record.backup.id, record]));
  const stateThere = new Map(copies.map(({ backupId, state }) => [backupId, state]));
  const plan: CopiesToMake = { steps: [], revived: [], present: 0, blocked: [] };
  const block = ({ backup: { id } }: BackupRecord, type: FailureType, message: string): void =>
    void plan.blocked.push({ id, type, message });

  const wanted = backups
    .filter(({ backup }) => backup.repository !== to && (from === undefined || backup.repository === from))
    .filter(({ backup }) => (only === undefined ? LISTED.includes(backup.state) : backup.id === only))
    .toSorted(byInstant);
  const missing: BackupRecord[] = [];
  for (const record of wanted) {
    const state = stateThere.get(record.backup.id);
    if (state === 'Copied' || (state === 'Copying' && only === undefined)) plan.present += 1;
    else if (state === 'Removed' && only !== undefined) plan.revived.push(record.backup.id);
    else if (state === 'Removed' || (state === 'Expunged' && only === undefined)) continue;
    else missing.push(record);
  }
  const kept = rules === null || only !== undefined ? undefined : keptThere(wanted, missing, stateThere, rules, now);
  const meant = missing.filter(({ backup: { id } }) => !without.has(id) && kept?.has(id) !== false);
  const taken = new Set<string>();
  for (const record of meant) {
    const { id, vm } = record.backup;
    const line = lineTo(record, byId, stateThere);
    const gone = line.find((each) => typeof each === 'string');
    const broken = line.find((each) => typeof each !== 'string' && each.damage !== null);
    const refusal = refused.get(record.backup.repository);
    if (refusal !== undefined) {
      block(record, 'EncryptionMismatch', refusal);
    } else if (gone !== undefined) {
      block(
        record,
        'BackupNotCopyable',
        `backup ${id} of VM ${vm.name} is built on ${gone}, which is gone and has no copy in ${to}`,
      );
    } else if (broken !== undefined && typeof broken !== 'string') {
      block(
        record,
        'BackupNotCopyable',
        `backup ${broken.backup.id} of VM ${vm.name} is damaged: ${broken.damage ?? ''}`,
      );
    } else {
      for (const each of line) {
        if (typeof each === 'string' || taken.has(each.backup.id)) continue;
        taken.add(each.backup.id);
        const { instant, storedBytes, parentId } = each.backup;
        const isAncestor = !meant.includes(each);
        plan.steps.push({ id: each.backup.id, instant, storedBytes, parentId, isAncestor });
      }
    }
  }
  return plan;
}

/** Whether a backup has files that can be copied at all. */
export const hasFiles = ({ backup }: BackupRecord): boolean => HAS_FILES.includes(backup.state);

/**
 * The backup and all it is built on that are not there, root first; an id stands for one that is nowhere. Without a limit of
 * depth, because a chain may have none.
 */
function lineTo(
  record: BackupRecord,
  byId: ReadonlyMap<string, BackupRecord>,
  stateThere: ReadonlyMap<string, CopyState>,
): (BackupRecord | string)[] {
  const line: (BackupRecord | string)[] = [record];
  for (let id = record.backup.parentId; id !== null;) {
    const state = stateThere.get(id);
    if (state !== undefined && BEARS.includes(state)) break;
    const parent = byId.get(id);
    if (parent === undefined || !hasFiles(parent)) {
      line.push(id);
      break;
    }
    line.push(parent);
    id = parent.backup.parentId;
  }
  return line.toReversed();
}

/** Backups that the rules of the repository would keep if all that are wanted were there. */
function keptThere(
  wanted: readonly BackupRecord[],
  missing: readonly BackupRecord[],
  stateThere: ReadonlyMap<string, CopyState>,
  rules: RetentionRules,
  now: Date,
): ReadonlySet<string> {
  const there = wanted.filter((record) => stateThere.get(record.backup.id) === 'Copied' || missing.includes(record));
  const judged = there.map(({ pinned, backup: { id, instant, validation } }): JudgedBackup => ({
    pinned,
    damage: null,
    backup: { id, instant, state: 'BackedUp', validation, compression: 'None' },
  }));
  const verdicts = planRetention(judged, rules, { now });
  return new Set(verdicts.filter(({ keptBy }) => keptBy.length > 0).map(({ id }) => id));
}

const byInstant = (a: BackupRecord, b: BackupRecord): number =>
  (a.backup.instant ?? '') < (b.backup.instant ?? '') ? -1 : 1;
