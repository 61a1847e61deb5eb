import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RetentionRules } from '../../schemas/retention.ts';
import { copiesAsBackups } from './copies-as-backups.ts';
import { PRESENT } from './delete-backup.ts';
import { locksOf, neededHidden, planDelete, type Locks } from './plan-delete.ts';
import { planRetention } from './plan-retention.ts';

/** What retention means for one backup. */
export interface JudgedRetention {
  id: string;
  instant: string | null;
  repository: string;
  /** What wants it to live; empty where it goes. */
  keptBy: string[];
  /** `hidden`: its files stay for those that are built on it. */
  outcome: 'kept' | 'hidden' | 'deleted';
  /** Hidden before, whatever the rules say. */
  wasHidden: boolean;
  storedBytes: number;
}

/** What rules mean for all backups of a VM, newest first: of each repository by itself, because each stands alone. */
export async function judgeRetention(
  catalog: Catalog,
  vmUuid: string,
  rules: RetentionRules,
  now: Date,
): Promise<JudgedRetention[]> {
  const present = await catalog.backups.records({ vm: vmUuid, states: PRESENT });
  const judged: JudgedRetention[] = [];
  for (const [repository, backups] of Map.groupBy(present, ({ backup }) => backup.repository)) {
    const chain = await catalog.backups.lastChain(vmUuid, repository);
    const current = await catalog.backups.current(vmUuid, repository);
    const openChain = chain?.open === true ? chain.id : null;
    const locked = locksOf(await catalog.repositories.find(repository), now);
    judged.push(...judgeBackups(backups, rules, { now, currentId: current?.backup.id, openChain, locked }));
  }
  return judged;
}

/** The same for the copies of a VM's backups in one repository, by rules of their own. */
export async function judgeCopies(
  catalog: Catalog,
  vmUuid: string,
  repository: string,
  rules: RetentionRules,
  now: Date,
): Promise<JudgedRetention[]> {
  const locked = locksOf(await catalog.repositories.find(repository), now);
  return judgeBackups(await copiesAsBackups(catalog, vmUuid, repository), rules, { now, openChain: null, locked });
}

/** The same of one repository's backups, which are given: the rules, then one delete after the other, newest first. */
export function judgeBackups(
  backups: readonly BackupRecord[],
  rules: RetentionRules,
  options: { now: Date; currentId?: string | undefined; openChain: string | null; locked?: Locks | undefined },
): JudgedRetention[] {
  const verdicts = planRetention(backups, rules, { ...options, neededHidden: neededHidden(backups) });
  const keptBy = new Map(verdicts.map((verdict) => [verdict.id, verdict.keptBy]));
  const left = new Map(backups.map((record) => [record.backup.id, record]));
  const hidden = new Set<string>();
  for (const { id, keptBy: wanted } of verdicts) {
    const record = left.get(id);
    if (wanted.length > 0 || record === undefined) continue; // gone with one that was built on it
    try {
      const plan = planDelete([...left.values()], id, {
        force: false,
        openChain: options.openChain,
        locked: options.locked,
      });
      if (plan.hide) {
        left.set(id, { ...record, backup: { ...record.backup, state: 'Removed' } });
        hidden.add(id);
      }
      for (const gone of plan.expunge) left.delete(gone.id);
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      wanted.push(error.message);
    }
  }
  return backups
    .filter(({ backup }) => backup.instant !== null && backup.state !== 'Failed')
    .map(({ backup }) => ({
      id: backup.id,
      instant: backup.instant,
      repository: backup.repository,
      keptBy: keptBy.get(backup.id) ?? ['others are built on it'],
      outcome: !left.has(backup.id) ? 'deleted' : left.get(backup.id)?.backup.state === 'Removed' ? 'hidden' : 'kept',
      wasHidden: backup.state === 'Removed',
      storedBytes: backup.storedBytes,
    }));
}
