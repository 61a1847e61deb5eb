import type { BackupRecord } from '../../catalog/contract.ts';
import { isOfFiles } from './choose-parent.ts';
import { neededFiles } from './needed-files.ts';

/** How marks begin that a check has set; see `damageOf` for those of a look at lengths. */
const MARK = 'bytes: ';
const isOfCheck = (damage: string | null): boolean => damage?.startsWith(MARK) === true;

export interface Marks {
  /** Backups to mark, with the mark. */
  set: { id: string; damage: string }[];
  /** Backups that are to be relied on again. */
  heal: string[];
}

/**
 * What follows from damaged files for the backups of one VM: the backup whose file it is, and all that need it, are marked.
 * A mark goes when no file that the backup needs is known to be damaged: at once if a check set it, else when all of them
 * were found right by this check.
 * @param backups all that have files, of one VM in one repository
 * @param verified files whose bytes this check found right
 */
export function marksOf(
  backups: readonly BackupRecord[],
  damaged: ReadonlyMap<string, string>,
  verified: ReadonlySet<string>,
): Marks {
  const byId = new Map(backups.map((record) => [record.backup.id, record]));
  const marks: Marks = { set: [], heal: [] };
  for (const record of backups) {
    const { id } = record.backup;
    const needed = neededFiles(record, byId);
    const bad = needed.find(({ file }) => damaged.has(file));
    if (bad !== undefined) {
      const cause = damaged.get(bad.file) ?? '';
      const damage = `${MARK}${bad.backupId === id ? '' : `built on backup ${bad.backupId}, of which `}${cause}`;
      const isOthers = record.damage !== null && !isOfCheck(record.damage) && !isOfFiles(record.damage);
      if (!isOthers && record.damage !== damage) marks.set.push({ id, damage });
    } else if (record.damage !== null) {
      const allRight = needed.length > 0 && needed.every(({ file }) => verified.has(file));
      if (allRight || (isOfCheck(record.damage) && record.backup.state !== 'Error')) marks.heal.push(id);
    }
  }
  return marks;
}
