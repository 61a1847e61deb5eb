import { overlayPath, type Delta, type ImageLayer } from '../../schemas/delta.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskFacts, PlannedDisk, VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';
import { whyNotSnapshot } from '../strategy-fit.ts';
import { parentProblem } from './parent-problem.ts';
import type { DiskPlanInput } from './plan-disks.ts';

/** What strategy `snapshot` adds to the plan of a disk. */
export interface OverlayPlan {
  backupId: string;
  /** Overlays on this VM that the catalog knows of. */
  deltas: readonly Delta[];
}

/**
 * The disk as its user knows it, without our overlays, and the overlay that will freeze it; an increment where the parent's
 * overlay still lies, unbroken, on the image that the parent froze.
 */
export function planOverlay(
  disk: DiskFacts,
  input: Pick<DiskPlanInput, 'parent' | 'chainReason' | 'facts' | 'forcedFull'>,
  { backupId, deltas }: OverlayPlan,
): Pick<PlannedDisk, 'sourcePath' | 'sourceFormat' | 'fullReason' | 'overlay'> {
  const layers = disk.layers ?? [];
  const ours = new Set(deltas.map(({ path }) => path));
  const own = layers.find(({ path }) => !ours.has(path)) ?? layers.at(-1);
  const top = layers[0];
  if (own === undefined || top === undefined) {
    throw new HoldfastError('SnapshotUnsupported', `the images of disk ${disk.target} cannot be told`);
  }
  const found = depthOrReason(disk, layers, own, input, deltas);
  return {
    sourcePath: own.path,
    sourceFormat: own.format,
    fullReason: typeof found === 'string' ? found : null,
    overlay: {
      path: overlayPath(own.path, backupId),
      frozen: layers,
      depth: typeof found === 'string' ? null : found,
    },
  };
}

/** How many images, from the top, hold what changed since the parent; or why that cannot be told. */
function depthOrReason(
  disk: DiskFacts,
  layers: readonly ImageLayer[],
  own: ImageLayer,
  { parent, chainReason, facts, forcedFull }: Pick<DiskPlanInput, 'parent' | 'chainReason' | 'facts' | 'forcedFull'>,
  deltas: readonly Delta[],
): number | FullReason {
  if (parent === undefined) return chainReason;
  const forced = forcedFull.get(disk.target);
  if (forced !== undefined) return forced;
  const before = parent.disks.find(({ target }) => target === disk.target);
  if (before === undefined) return 'disk-added';
  if (parent.strategy !== 'snapshot') return 'strategy-changed';
  if (before.serial !== disk.serial) return 'disk-replaced';
  if (before.virtualSizeBytes !== disk.virtualSizeBytes) return 'disk-resized';
  const problem = parentProblem(facts, before.file);
  if (problem !== undefined) return problem;
  const mark = deltas.find(({ backupId, target }) => backupId === parent.backup.id && target === disk.target);
  const at = mark === undefined ? -1 : layers.findIndex(({ path }) => path === mark.path);
  if (mark === undefined || at < 0) return before.sourcePath === own.path ? 'snapshot-reverted' : 'disk-replaced';
  const below = layers[at + 1];
  if (below?.path !== mark.frozenPath || below.stamp === null || below.stamp !== mark.frozenStamp)
    return 'image-changed';
  return at + 1;
}

/** @throws HoldfastError SnapshotUnsupported with every reason */
export function requireSnapshotPossible(
  facts: VmFacts,
  asked: { includeDisks: string[]; excludeDisks: string[] },
): void {
  const reasons = whyNotSnapshot(facts, asked);
  if (reasons.length > 0) throw new HoldfastError('SnapshotUnsupported', reasons.join('; '));
}
