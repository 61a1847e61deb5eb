import type { BackupRecord } from '../../catalog/contract.ts';
import type { TakeBackupRequest } from '../../schemas/requests.ts';
import { fullReason, type FullReason } from '../../schemas/states.ts';

/** Why the backup does not build on the current one; undefined when it may. */
export function whyChainEnds(input: {
  asked: Pick<TakeBackupRequest, 'full'>;
  isolated: boolean;
  current: BackupRecord | undefined;
  chainSize: number;
}): FullReason | undefined {
  const { asked, isolated, current, chainSize } = input;
  if (isolated || asked.full === true) return 'requested';
  if (current === undefined) return undefined;
  const position = current.backup.position ?? 1;
  return chainSize >= 1 && position >= chainSize ? 'chain-size-reached' : undefined;
}

/** Why there is no open chain: what the last one was ended for, or that there never was one. */
export function whyNoChain(lastChain: { open: boolean; endedReason: string | null } | undefined): FullReason {
  if (lastChain === undefined) return 'first-backup';
  const reason = fullReason.safeParse(lastChain.endedReason);
  if (reason.success) return reason.data;
  return lastChain.open ? 'parent-missing' : 'requested';
}
