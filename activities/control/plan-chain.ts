import type { BackupRecord } from '../../catalog/contract.ts';
import type { TakeBackupRequest } from '../../schemas/requests.ts';
import { fullReason, type FullReason } from '../../schemas/states.ts';

/** Why the backup does not build on the current one; undefined when it may. */
export function whyChainEnds(input: {
  asked: Pick<TakeBackupRequest, 'full'>;
  isolated: boolean;
  current: BackupRecord | undefined;
  /** Position of the full that the current one is built on: more than 1 after a merge. */
  firstPosition?: number | undefined;
  chainSize: number;
}): FullReason | undefined {
  const { asked, isolated, current, firstPosition, chainSize } = input;
  if (isolated || asked.full === true) return 'requested';
  if (current === undefined) return undefined;
  return isFullLength({ position: current.backup.position ?? 1, firstPosition, chainSize })
    ? 'chain-size-reached'
    : undefined;
}

/** Whether a backup at that position is the last of its chain: merges take the first ones away, positions stay. */
export const isFullLength = (place: {
  position: number;
  firstPosition?: number | undefined;
  chainSize: number;
}): boolean => place.chainSize >= 1 && place.position - (place.firstPosition ?? 1) + 1 >= place.chainSize;

/** Why there is no open chain: what the last one was ended for, or that there never was one. */
export function whyNoChain(lastChain: { open: boolean; endedReason: string | null } | undefined): FullReason {
  if (lastChain === undefined) return 'first-backup';
  const reason = fullReason.safeParse(lastChain.endedReason);
  if (reason.success) return reason.data;
  return lastChain.open ? 'parent-missing' : 'requested';
}
