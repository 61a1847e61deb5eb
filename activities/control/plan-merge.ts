import type { BackupRecord } from '../../catalog/contract.ts';
import type { Merge } from '../../schemas/merge-plan.ts';
import { busyWith } from './plan-delete.ts';
import type { BackupState } from '../../schemas/states.ts';

/** Has files that count. */
const HOLDS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed'];

export interface MergePlan {
  /** In the order they are done. */
  merges: Merge[];
  /** Why no more can be merged though more are meant; null when all that is meant can be. */
  blocked: string | null;
}

/**
 * Which increments are merged with the full beneath them, so that a chain has at most `keep` backups. Each merge takes the oldest
 * backup of the chain away.
 * @param backups of the VM, in any order
 * @param keep undefined: one merge
 */
export function planMerge(backups: readonly BackupRecord[], chainId: string, keep: number | undefined): MergePlan {
  const chain = backups.filter(({ backup }) => backup.chainId === chainId);
  const counted = chain.filter(({ backup }) => HOLDS_FILES.includes(backup.state));
  const wanted = Math.min(counted.length - 1, keep === undefined ? 1 : counted.length - Math.max(1, keep));
  const merges: Merge[] = [];
  let full = counted.find(({ backup }) => backup.parentId === null);
  for (let left = wanted; left > 0 && full !== undefined; left -= 1) {
    const above = childrenOf(full, backups);
    const why = whyNot(full, above, merges.length > 0);
    const [into] = above;
    if (why !== undefined || into === undefined) return { merges, blocked: why ?? null };
    merges.push({
      full: { id: full.backup.id, instant: full.backup.instant, storedBytes: full.backup.storedBytes },
      into: { id: into.backup.id, instant: into.backup.instant, storedBytes: into.backup.storedBytes },
    });
    full = into;
  }
  return { merges, blocked: null };
}

const childrenOf = ({ backup: { id } }: BackupRecord, backups: readonly BackupRecord[]): BackupRecord[] =>
  backups.filter(
    ({ backup }) => backup.parentId === id && !(['Expunged', 'Failed'].includes(backup.state) || isUndone(backup)),
  );

/** It did not come about: only its undo is open. */
const isUndone = ({ state, instant }: BackupRecord['backup']): boolean => state === 'Error' && instant === null;

function whyNot(full: BackupRecord, above: readonly BackupRecord[], isMerged: boolean): string | undefined {
  const { id, type } = full.backup;
  const [into] = above;
  if (into === undefined) return undefined; // nothing is built on it
  if (type !== 'full' && !isMerged) return `backup ${id}, the oldest, is not a full`;
  if (above.length > 1) {
    const ids = above.map(({ backup }) => backup.id).join(', ');
    return `${above.length} backups are built on ${id} (${ids}): it would have to stay`;
  }
  if (full.pinned) return `backup ${id} is pinned; unpin it first: holdfast backup unpin ${id}`;
  for (const { backup } of [full, into]) {
    const busy = busyWith(backup);
    if (busy !== undefined) return `backup ${backup.id} is ${busy}; try again later`;
    if (!HOLDS_FILES.includes(backup.state)) return `backup ${backup.id} is ${backup.state}`;
  }
  for (const { backup, damage } of [full, into]) {
    if (damage !== null) return `backup ${backup.id} is damaged: ${damage}`;
  }
  return undefined;
}
