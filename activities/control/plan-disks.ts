import type { BackupRecord } from '../../catalog/contract.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { SourceMark } from '../../schemas/source-mark.ts';
import type { DiskFacts, PlannedDisk, VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';
import { parentProblem } from './parent-problem.ts';
import { planOverlay, type OverlayPlan } from './plan-overlays.ts';

export interface DiskPlanInput {
  facts: VmFacts;
  /** Empty = all. */
  includeDisks: string[];
  excludeDisks: string[];
  /** The newest backup of the open chain; undefined when the backup starts a chain or stands alone. */
  parent: BackupRecord | undefined;
  /** Why there is no parent; ignored when there is one. */
  chainReason: FullReason;
  /** Where the VM is now. */
  host?: string;
  /** Numbers that disks of this VM had before, by target. */
  knownNumbers: ReadonlyMap<string, number>;
  /** Disks that a step found in doubt after planning. */
  forcedFull: ReadonlyMap<string, FullReason>;
  /** Of strategy `snapshot`; undefined for `checkpoint`. */
  overlays?: OverlayPlan | undefined;
}

export interface DiskPlan {
  disks: PlannedDisk[];
  skippedDisks: { target: string; reason: string }[];
}

/** Formats whose images keep dirty bitmaps across a restart of QEMU. */
const BITMAP_FORMATS = new Set(['qcow2']);

/** Decides for every disk of a VM whether it is skipped, copied in full and why, or copied as an increment. */
export function planDisks(input: DiskPlanInput): DiskPlan {
  const disks: PlannedDisk[] = [];
  const skippedDisks: DiskPlan['skippedDisks'] = [];
  const usedNumbers = new Set(input.knownNumbers.values());
  for (const disk of input.facts.disks) {
    const skipReason = whySkipped(disk, input);
    if (skipReason !== undefined) {
      skippedDisks.push({ target: disk.target, reason: skipReason });
      continue;
    }
    const number = input.knownNumbers.get(disk.target) ?? firstFree(usedNumbers);
    usedNumbers.add(number);
    const overlaid = input.overlays === undefined ? undefined : planOverlay(disk, input, input.overlays);
    const fullReason = overlaid === undefined ? whyFull(disk, input) : overlaid.fullReason;
    disks.push({
      target: disk.target,
      number,
      serial: disk.serial,
      sourcePath: disk.sourcePath,
      sourceFormat: disk.format,
      ...(disk.mark === undefined ? {} : { sourceMark: disk.mark }),
      virtualSizeBytes: disk.virtualSizeBytes ?? 0,
      type: fullReason === null ? 'incremental' : 'full',
      fullReason,
      parentFile: fullReason === null ? (parentDisk(disk, input.parent)?.file ?? null) : null,
      holdsBitmap: overlaid === undefined && BITMAP_FORMATS.has(disk.format),
      ...overlaid,
    });
  }
  return { disks, skippedDisks };
}

function whySkipped(
  disk: DiskFacts,
  { includeDisks, excludeDisks }: Pick<DiskPlanInput, 'includeDisks' | 'excludeDisks'>,
): string | undefined {
  if (disk.device === 'cdrom' || disk.device === 'floppy') return disk.device;
  if (disk.virtualSizeBytes === null) return 'empty drive';
  if (excludeDisks.includes(disk.target)) return 'excluded';
  if (includeDisks.length > 0 && !includeDisks.includes(disk.target)) return 'not included';
  if (disk.device === 'lun') return 'passed-through LUN';
  return undefined;
}

function parentDisk(disk: DiskFacts, parent: BackupRecord | undefined) {
  return parent?.disks.find(({ target }) => target === disk.target);
}

/** null = an increment is provably right. */
function whyFull(disk: DiskFacts, { parent, chainReason, facts, forcedFull, host }: DiskPlanInput): FullReason | null {
  if (!BITMAP_FORMATS.has(disk.format)) return 'format-without-bitmaps';
  if (parent === undefined) return chainReason;
  const forced = forcedFull.get(disk.target);
  if (forced !== undefined) return forced;
  const before = parentDisk(disk, parent);
  if (before === undefined) return 'disk-added';
  if (parent.strategy === 'snapshot') return 'strategy-changed';
  if (!isSameDisk(before, disk)) return 'disk-replaced';
  if (before.virtualSizeBytes !== disk.virtualSizeBytes) return 'disk-resized';
  const problem = parentProblem(facts, before.file);
  if (problem !== undefined) return problem;
  const bitmap = disk.bitmaps.find(({ name }) => name === checkpointName(parent.backup.id));
  if (bitmap === undefined) return before.sourcePath === disk.sourcePath ? 'checkpoint-lost' : 'disk-replaced';
  if (bitmap.inconsistent || !bitmap.recording) return 'bitmap-inconsistent';
  return whyUnlike(before.sourceMark, disk.mark, parent.backup.host === host);
}

/** What no bitmap notes: another file took the image's place, with a bitmap of that name in it; or what is below changed. */
function whyUnlike(before: SourceMark | undefined, now: SourceMark | undefined, sameHost: boolean): FullReason | null {
  if (before === undefined || now === undefined) return null; // of a backup that did not note it
  if (sameHost && before.born !== null && now.born !== null && before.born !== now.born) return 'disk-replaced';
  return before.below === now.below ? null : 'image-changed';
}

/**
 * All disks of a VM have a bitmap of the same name, so a bitmap does not tell which disk it is on: two disks that changed
 * places would be taken for one another. A serial tells, and where there is none, the place.
 */
function isSameDisk(before: Pick<DiskFacts, 'serial' | 'sourcePath'>, now: DiskFacts): boolean {
  if (before.serial !== now.serial) return false;
  return now.serial !== null || before.sourcePath === now.sourcePath;
}

function firstFree(used: ReadonlySet<number>): number {
  let number = 0;
  while (used.has(number)) number += 1;
  return number;
}
