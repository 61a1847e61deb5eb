import type { VmProbe } from '../../schemas/probe.ts';
import { backupSteps, target, vmRecord } from './fakes.ts';
import { HOST, type FakeActivities } from './workflow-suite.ts';

const OLDER = '0d4e2c1b-1111-4222-8333-444455556666';

const probe: VmProbe = { host: HOST, power: 'running', checkpoints: [], images: [], doesNotFit: [] };

/** The steps of `finishChain` on a VM with an open chain, and of `probeVm`. */
export const chainSteps = (): FakeActivities => ({
  ...backupSteps(),
  chainState: () => Promise.resolve({ repairs: [], openChains: [OLDER], leftovers: [], overlays: false }),
  endChains: () => Promise.resolve({ stale: [OLDER], target }),
  removeCheckpoints: () => Promise.resolve(),
  checkpointsRemoved: () => Promise.resolve(),
  knownVm: () => Promise.resolve(vmRecord),
  probeVm: () => Promise.resolve(probe),
});

/** Nothing is open on it, and nothing left. */
export const nothingOpen = {
  chainState: () => Promise.resolve({ repairs: [], openChains: [], leftovers: [], overlays: false }),
};
