import type { DiskFacts, VmFacts } from '../schemas/plan.ts';

export interface StrategyFacts {
  name: string;
  disks: Pick<DiskFacts, 'target' | 'device' | 'sourceType' | 'sourcePath' | 'format' | 'shareable' | 'readOnly'>[];
  /** Names of libvirt snapshots that hold memory. */
  memorySnapshots?: VmFacts['memorySnapshots'];
}

/** Formats into which QEMU can merge an overlay. */
const MERGEABLE = new Set(['raw', 'qcow2']);

/** Why a VM cannot be protected by strategy `snapshot`, each with its remedy; empty when it can. */
export function whyNotSnapshot(
  { name, disks, memorySnapshots = [] }: StrategyFacts,
  { includeDisks, excludeDisks }: { includeDisks: string[]; excludeDisks: string[] },
): string[] {
  const reasons = disks
    .filter(({ device, target }) => {
      if (device !== 'disk' || excludeDisks.includes(target)) return false;
      return includeDisks.length === 0 || includeDisks.includes(target);
    })
    .flatMap((disk) => {
      const problem = whyNoOverlay(disk);
      if (problem === undefined) return [];
      return [
        `disk ${disk.target} of VM ${name} ${problem}; leave it out (--exclude-disk), or use strategy checkpoint`,
      ];
    });
  if (memorySnapshots.length === 0) return reasons;
  return [
    `VM ${name} has snapshots with memory, which do not go with overlays laid on its disks: ${memorySnapshots.join(', ')}; ` +
      'delete them, or use strategy checkpoint',
    ...reasons,
  ];
}

function whyNoOverlay({ sourceType, sourcePath, format, shareable, readOnly }: StrategyFacts['disks'][number]) {
  if (sourceType !== 'file') return `is no file (${sourceType}): no overlay can be laid beside it`;
  if (sourcePath === null) return undefined; // an empty drive
  if (!MERGEABLE.has(format)) return `is ${format}: an overlay on it could not be merged back`;
  if (shareable) return 'is shared with other VMs, which would not see its overlay';
  if (readOnly) return 'is read-only: libvirt lays no overlay on it';
  return undefined;
}
