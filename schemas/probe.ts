import { z } from 'zod';
import { vmName } from './names.ts';
import { strategy } from './states.ts';
import type { PowerState } from './catalog.ts';
import type { DiskFacts } from './plan.ts';

export const probeVmRequest = z.strictObject({
  vm: vmName,
  /** Also asks whether the VM can be protected by it, with these disks. */
  strategy: strategy.optional(),
  includeDisks: z.array(z.string()).optional(),
  excludeDisks: z.array(z.string()).optional(),
});
export type ProbeVmRequest = z.infer<typeof probeVmRequest>;

/** What a hypervisor shows of a VM's checkpoints, ours and others'. */
export interface VmProbe {
  host: string;
  power: PowerState;
  /** libvirt's records, each after its parent. */
  checkpoints: { name: string; parent: string | null }[];
  /** The bitmaps in each disk's active image; that of a checkpoint bears its name. */
  images: { target: string; path: string | null; format: string; bitmaps: DiskFacts['bitmaps'] }[];
  /** Why the strategy asked about cannot protect the VM, each with its remedy. */
  doesNotFit: string[];
}
