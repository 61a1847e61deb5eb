import type { BackupRecord } from '../../catalog/contract.ts';

/** A stored file that a disk of a backup is made of. */
export interface NeededFile {
  backupId: string;
  target: string;
  file: string;
}

/**
 * Every file that these disks of a backup are made of, each back to its full: what an ancestor has of other disks does not
 * concern them. @param targets default: all disks
 */
export function neededFiles(
  record: BackupRecord,
  byId: ReadonlyMap<string, BackupRecord>,
  targets: readonly string[] = record.disks.map(({ target }) => target),
): NeededFile[] {
  const needed: NeededFile[] = [];
  for (const start of record.disks.filter(({ target }) => targets.includes(target))) {
    let disk: typeof start | undefined = start;
    let owner: BackupRecord | undefined = record;
    const seen = new Set<string>();
    while (disk !== undefined && owner !== undefined && !seen.has(disk.file)) {
      const { file, target, backingFile }: typeof start = disk;
      seen.add(file);
      needed.push({ backupId: owner.backup.id, target, file });
      if (backingFile === null) break;
      owner = owner.backup.parentId === null ? undefined : byId.get(owner.backup.parentId);
      disk = owner?.disks.find((candidate) => candidate.file === backingFile);
    }
  }
  return needed;
}
