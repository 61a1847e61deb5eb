import type { BackupRecord } from '../../catalog/contract.ts';
import { manifestKey, sumsKey } from '../../repository/layout.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { PassedOver } from '../../schemas/manifest.ts';
import type { VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';

/** A backup that the next may build on, with all it is built on itself: from the full to it. */
export interface ParentCandidate {
  record: BackupRecord;
  ancestry: BackupRecord[];
}

type Problems = VmFacts['parentProblems'];

export interface ChosenParent {
  parent: ParentCandidate | undefined;
  /** Younger ones that could not serve, youngest first. */
  passedOver: PassedOver[];
}

/** Every file that an increment on a backup would build on; with its length, as far as it is known. */
export function filesBeneath({ record, ancestry }: ParentCandidate): Map<string, number | null> {
  const vmUuid = record.backup.vm.uuid;
  const needed = new Map<string, number | null>();
  // Of each disk back to its last full: what an older increment of it lacks concerns nobody any more.
  let open = new Set(record.disks.map(({ target }) => target));
  for (const { backup, disks } of ancestry.toReversed()) {
    const concerned = disks.filter(({ target }) => open.has(target));
    if (concerned.length === 0) break;
    needed.set(manifestKey(vmUuid, backup.id), null); // without it the chain cannot be restored
    for (const { file, storedBytes } of concerned) needed.set(file, storedBytes).set(sumsKey(file), null);
    open = new Set(concerned.filter(({ type }) => type === 'incremental').map(({ target }) => target));
  }
  return needed;
}

/** Why a backup is marked as damaged when its files were found so; other marks are of validations. */
const MARK = 'files: ';
export const damageOf = ({ file, problem }: Problems[number]): string =>
  `${MARK}${file} ${problem === 'missing' ? 'is missing' : 'has another length than when it was written'}`;
export const isOfFiles = (damage: string | null): boolean => damage?.startsWith(MARK) === true;

/** What of the problems found concerns an increment on this backup. */
export function problemsBeneath(candidate: ParentCandidate, problems: Problems): Problems {
  const needed = filesBeneath(candidate);
  return problems.filter(({ file }) => needed.has(file));
}

/** Why a backup is not whole, or one it is built on is not; undefined as far as is known. */
export function whyNotWhole(candidate: ParentCandidate, problems: Problems): FullReason | undefined {
  const found = problemsBeneath(candidate, problems);
  if (found.some(({ problem }) => problem === 'missing')) return 'parent-missing';
  if (found.length > 0 || isMarkedBeneath(candidate)) return 'parent-damaged';
  return undefined;
}

/**
 * Whether the backup, or one that it is built on, is marked as damaged by more than a look at files: those were looked at
 * just now, and a file that was brought back is good again.
 */
export function isMarkedBeneath(candidate: ParentCandidate): boolean {
  const needed = filesBeneath(candidate);
  return candidate.ancestry.some(
    ({ disks, damage }) => damage !== null && !isOfFiles(damage) && disks.some(({ file }) => needed.has(file)),
  );
}

/**
 * Chooses what the next backup builds on: the youngest backup that is whole, unless its checkpoint is gone or useless on a
 * disk on which an older one's still lives. When none is whole the youngest remains, and the disks concerned become full.
 * @param candidates youngest first
 * @param lost backups whose checkpoint proved useless when a backup was to begin
 * @param fullDisks why disks would be full on that parent
 * @param since the one that was asked for, and no other
 * @throws HoldfastError ParentNotUsable when that one cannot serve
 */
export function chooseParent(input: {
  candidates: readonly ParentCandidate[];
  problems: Problems;
  lost: readonly string[];
  fullDisks: (candidate: ParentCandidate) => FullReason[];
  since?: ParentCandidate | undefined;
}): ChosenParent {
  const { candidates, problems, lost, fullDisks, since } = input;
  const judged = candidates.map((candidate) => {
    const reason = lost.includes(candidate.record.backup.id) ? 'checkpoint-lost' : whyNotWhole(candidate, problems);
    const full = fullDisks(candidate);
    return {
      candidate,
      reason: reason ?? full.find((one) => ON_ONE_CHECKPOINT.has(one)),
      unfit: reason !== undefined,
      full,
    };
  });
  const asked = judged.find(({ candidate }) => candidate === since);
  if (asked?.reason !== undefined) {
    const { id, vm } = asked.candidate.record.backup;
    throw new HoldfastError(
      'ParentNotUsable',
      `since: nothing can be built on backup ${id} of VM ${vm.name}: ${asked.reason}; take the backup without --since`,
    );
  }
  const fit = judged.filter(({ unfit }) => !unfit);
  const fewest = (best: (typeof judged)[number], one: (typeof judged)[number]) =>
    one.full.length < best.full.length ? one : best;
  const best = asked ?? (fit.length === 0 ? judged[0] : fit.reduce(fewest));
  if (best === undefined) return { parent: undefined, passedOver: [] };
  return {
    parent: best.candidate,
    passedOver: judged.slice(0, judged.indexOf(best)).map(({ candidate, reason, full }) => ({
      id: candidate.record.backup.id,
      reason: asked === undefined ? (reason ?? full[0] ?? 'requested') : 'requested',
    })),
  };
}

/** Reasons that an older checkpoint may not have. */
const ON_ONE_CHECKPOINT = new Set<FullReason>(['checkpoint-lost', 'bitmap-inconsistent']);

/** Backups passed over on which nothing will be built again. */
export const uselessOf = (passedOver: readonly PassedOver[]): string[] =>
  passedOver
    .filter(({ reason }) => ON_ONE_CHECKPOINT.has(reason) || reason === 'parent-missing' || reason === 'parent-damaged')
    .map(({ id }) => id);
