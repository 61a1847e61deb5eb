import type { Delta, ImageLayer } from '../../schemas/delta.ts';

/** One merge: neighbouring overlays go into the image below them. */
export interface MergeStep {
  /** Paths of the overlays that go, the topmost first. */
  dropped: string[];
  into: ImageLayer;
  /** The image above them; null when the VM writes to the topmost of them. */
  above: ImageLayer | null;
}

export interface Ownership {
  /** Overlays that should go. */
  drop: ReadonlySet<string>;
  /** Overlays of ours that stay. */
  keep: ReadonlySet<string>;
  /** Images that the user's snapshots go back to. */
  pinned: ReadonlySet<string>;
}

/**
 * Which merges a disk's chain needs, the lowest first. An overlay that somebody else's image lies directly on is what that
 * one's snapshot froze: it stays until that image is gone.
 */
export function mergeSteps(layers: readonly ImageLayer[], owned: Ownership): MergeStep[] {
  const steps: MergeStep[] = [];
  for (let at = layers.length - 2; at >= 0;) {
    if (!mayGo(layers, at, owned)) {
      at -= 1;
      continue;
    }
    const lowest = at;
    while (at > 0 && mayGo(layers, at - 1, owned)) at -= 1;
    const into = layers[lowest + 1];
    if (into !== undefined) {
      steps.push({
        dropped: layers.slice(at, lowest + 1).map(({ path }) => path),
        into,
        above: layers[at - 1] ?? null,
      });
    }
    at -= 1;
  }
  return steps;
}

function mayGo(layers: readonly ImageLayer[], at: number, owned: Ownership): boolean {
  const layer = layers[at];
  return layer !== undefined && owned.drop.has(layer.path) && whyHeld(layers, at, owned) === undefined;
}

/** Why an overlay has to stay where it is for now. */
export function whyHeld(layers: readonly ImageLayer[], at: number, { drop, keep, pinned }: Ownership) {
  const path = layers[at]?.path ?? '';
  if (pinned.has(path)) return 'a snapshot goes back to it' as const;
  const above = layers[at - 1];
  if (above !== undefined && !drop.has(above.path) && !keep.has(above.path)) {
    return 'an image that is not ours lies on it' as const;
  }
  return undefined;
}

/** The image that an overlay lay on, or what that is merged into when it is itself an overlay of ours. */
export function ownImageBelow(delta: Delta, known: readonly Delta[]): string {
  const seen = new Set<string>();
  let path = delta.frozenPath;
  for (;;) {
    const below = known.find((each) => each.path === path);
    if (below === undefined || seen.has(path)) return path;
    seen.add(path);
    path = below.frozenPath;
  }
}

/** What is known of one recorded overlay when the VM is looked at. */
export interface DeltaFacts {
  delta: Delta;
  /** The next backup may build on it. */
  wanted: boolean;
  /** It is among the images of a disk of the VM: what is below it, and why it cannot go now. */
  inChain: { below: string | null; held: string | undefined } | null;
  overlayExists: boolean;
  frozenExists: boolean;
  /** The image it was put on, or what that one was merged into, is among the images of a disk of the VM. */
  frozenInUse: boolean;
  /** A snapshot goes back to it. */
  pinned: boolean;
  /** A merge of ours took it out of the chain. */
  wasMerged: boolean;
  /** Since it was written to; null when it is not there. */
  untouchedMs: number | null;
  /** Another VM of the host has it among its images. */
  otherVm: string | null;
}

/** How long an overlay is kept that the VM went on without. */
export const GRACE_MS = 24 * 3600 * 1000;

export type DeltaDecision =
  | { act: 'keep' | 'merge' | 'forget' | 'remove' | 'merge-beside' }
  | { act: 'postpone'; reason: string }
  | { act: 'refuse'; anomaly: string };

/**
 * What becomes of a recorded overlay, by which of overlay and base are still in the disk's real chain. Every merge keeps
 * what the VM reads as it is; removed is only what no VM reads.
 */
export function decideDelta(facts: DeltaFacts): DeltaDecision {
  const { delta, wanted, inChain, overlayExists, frozenExists, frozenInUse, pinned, otherVm } = facts;
  const wasNeverUsed = delta.frozenStamp === null;
  if (inChain !== null) {
    if (inChain.below === null) return { act: 'forget' }; // somebody flattened the disk into it: it is the disk now
    if (wanted) return { act: 'keep' };
    return inChain.held === undefined ? { act: 'merge' } : { act: 'postpone', reason: inChain.held };
  }
  if (!overlayExists) return { act: 'forget' };
  if (otherVm !== null) return { act: 'forget' }; // the disk was given to another VM, with all its images
  if (facts.wasMerged) return { act: 'remove' };
  if (pinned) return { act: 'postpone', reason: 'a snapshot goes back to it' };
  if (frozenInUse) {
    // The VM goes on without it. Reverted on purpose, or started from an old definition: then somebody may want it back.
    if (wasNeverUsed || (facts.untouchedMs ?? 0) >= GRACE_MS) return { act: 'remove' };
    const reason = `the VM goes on without it; it is removed by a backup or chain finish a day after its last write`;
    return { act: 'postpone', reason };
  }
  if (frozenExists) return { act: 'merge-beside' }; // the disk was detached: what it wrote belongs to it
  return {
    act: 'refuse',
    anomaly:
      `overlay ${delta.path} of disk ${delta.target} is not among the VM's images, and ${delta.frozenPath}, which it was ` +
      'put on, is gone; look for that image, or remove the overlay if it is of no use',
  };
}
