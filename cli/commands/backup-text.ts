import type { BackupWithCopies } from '../../operations/backup-copies.ts';
import type { Backup } from '../../schemas/backup.ts';
import { copiesCell } from '../copies-text.ts';
import { durationText, shortId, sizeText, table } from '../output.ts';

/** A line for each backup; with the repositories of its copies where any has one. */
export function backupTable(backups: readonly (BackupWithCopies & { damage?: string })[], nothing: string): string {
  const hasCopies = backups.some(({ copies }) => copies !== undefined);
  const head = ['BACKUP', 'VM', 'TYPE', 'STATE', 'INSTANT', 'CHANGED', 'STORED', 'TOOK', 'VALIDATION', 'REPOSITORY'];
  return table(
    hasCopies ? [...head, 'COPIES'] : head,
    backups.map((row) => [
      shortId(row.id),
      row.vm.name,
      row.isolated ? `${row.type}, isolated` : row.type,
      row.damage === undefined ? row.state : `${row.state}, damaged`,
      row.instant,
      sizeText(row.disks.reduce((sum, disk) => sum + disk.changedBytes, 0)),
      sizeText(row.storedBytes),
      durationText(row.durationMs),
      row.validation,
      row.repository,
      ...(hasCopies ? [copiesCell(row.copies)] : []),
    ]),
    nothing,
  );
}

/** One backup, disk by disk. */
export function backupText(backup: Backup): string {
  const { vm, disks } = backup;
  return [
    `${backup.id}  ${backup.type}${backup.isolated ? ' (isolated)' : ''}  ${backup.state}`,
    `VM ${vm.name}, ${backup.instant ?? 'no instant'}, ${backup.consistency ?? 'unknown'} consistent, host ${backup.host}, repository ${backup.repository}`,
    ...(backup.chainId === null
      ? []
      : [
          `chain ${shortId(backup.chainId)}, position ${backup.position ?? '-'}${backup.endOfChain ? ', end of chain' : ''}`,
        ]),
    '',
    table(
      ['DISK', 'TYPE', 'WHY FULL', 'SIZE', 'CHANGED', 'READ', 'STORED', 'FILE'],
      disks.map((disk) => [
        disk.target,
        disk.type,
        disk.fullReason,
        sizeText(disk.virtualSizeBytes),
        sizeText(disk.changedBytes),
        sizeText(disk.readBytes),
        sizeText(disk.storedBytes),
        disk.file,
      ]),
      'no disks',
    ),
    `stored ${sizeText(backup.storedBytes)} in ${durationText(backup.durationMs)}`,
  ].join('\n');
}
