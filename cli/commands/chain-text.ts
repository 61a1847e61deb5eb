import type {
  ChainTree,
  CheckpointPlaces,
  ShownBackup,
  ShownChain,
  ShownCheckpoint,
} from '../../operations/chain-tree.ts';
import { damageText } from '../../operations/damage-text.ts';
import { shortId, sizeText } from '../output.ts';

/** A VM's chains as trees. The newest line goes straight down; what branched off is drawn in front of it. */
export function chainTreeText({ chains, strays, others }: ChainTree): string {
  return [
    ...chains.map(chainText),
    ...checkpointsText('checkpoints of ours that belong to no backup, and go with the next:', strays),
    ...checkpointsText("other tools' checkpoints, which are left alone:", others),
  ].join('\n\n');
}

function chainText({ id, open, repository, backups }: ShownChain): string {
  const head =
    id === null ? `isolated, in ${repository}` : `chain ${shortId(id)} in ${repository}, ${open ? 'open' : 'ended'}`;
  const shown = new Set(backups.map((backup) => backup.id));
  const roots = backups.filter(({ parentId }) => parentId === null || !shown.has(parentId));
  return [head, ...roots.flatMap((root) => lineFrom(root, backups, '  '))].join('\n');
}

function lineFrom(backup: ShownBackup, all: readonly ShownBackup[], indent: string): string[] {
  const children = all.filter(({ parentId }) => parentId === backup.id); // oldest first
  const branches = children.slice(0, -1);
  const [next] = children.slice(-1);
  return [
    `${indent}${backupText(backup)}`,
    ...branches.flatMap((branch) => lineFrom(branch, all, `${indent}├─ `)),
    ...(next === undefined ? [] : lineFrom(next, all, indent)),
  ];
}

function backupText(backup: ShownBackup): string {
  const changedBytes = backup.disks.reduce((sum, disk) => sum + disk.changedBytes, 0);
  const marks = [
    ...(backup.endOfChain ? ['end of chain'] : []),
    ...(backup.pinned ? ['pinned'] : []),
    ...(backup.damage === null ? [] : [`damaged: ${damageText(backup.damage)}`]),
    ...(backup.checkpoint === null ? [] : [`checkpoint ${backup.checkpoint}${placesText(backup)}`]),
    ...(backup.overlays.length === 0 ? [] : [`overlay on ${backup.overlays.join(', ')}`]),
    ...(backup.checkpoint === null && isThere(backup)
      ? [`checkpoint unknown to the catalog${placesText(backup)}`]
      : []),
  ];
  return [
    shortId(backup.id),
    backup.type,
    ...(backup.parentId === null ? [] : [`on ${shortId(backup.parentId)}`]),
    backup.instant ?? '-',
    `${sizeText(changedBytes)} changed, ${sizeText(backup.storedBytes)} stored`,
    backup.state,
    ...marks,
  ].join('  ');
}

const isThere = ({ inDomain, inImages }: CheckpointPlaces): boolean =>
  inDomain === true || (inImages !== null && inImages.length > 0);

function placesText({ inDomain, inImages }: CheckpointPlaces): string {
  if (inDomain === null || inImages === null) return ' (where: unknown)';
  const images = inImages.length === 0 ? 'in no image' : `in the image of ${inImages.join(' ')}`;
  return ` (${inDomain ? 'in the domain' : 'not in the domain'}, ${images})`;
}

const checkpointsText = (head: string, checkpoints: readonly ShownCheckpoint[]): string[] =>
  checkpoints.length === 0 ? [] : [[head, ...checkpoints.map((one) => `  ${one.name}${placesText(one)}`)].join('\n')];
