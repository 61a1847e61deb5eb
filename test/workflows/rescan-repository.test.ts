import { describe, expect, it } from 'vitest';
import type { RescannedRepository } from '../../workflows/rescan-repository.ts';
import { VM } from './fakes.ts';
import { OTHER_VM, RESCAN_REQUEST, rescanSteps } from './rescan-fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

describe('rescanRepository', () => {
  const suite = workflowSuite();

  it('reads VMs that are admitted to it, takes them over and lets them go', async () => {
    const { activities, calls } = recorded(rescanSteps());
    const result = await suite.run<RescannedRepository>('rescanRepository', RESCAN_REQUEST, activities);
    expect(result).toMatchObject({ repository: 'main', dryRun: false, vms: 2, added: 2 });
    expect(calls).toEqual([
      'planRescan',
      'seesRepository',
      'listStoredVms',
      'vmsKnownIn',
      'claimVms',
      'readStoredVms',
      'applyRescan',
      'releaseVms',
      'recordRescan',
    ]);
  });

  it('leaves VMs alone that an operation is at work on, and tries them again', async () => {
    let asked = 0;
    const read: string[][] = [];
    const { activities } = recorded({
      ...rescanSteps(),
      claimVms: () => Promise.resolve(asked++ === 0 ? [VM.uuid] : []),
      readStoredVms: (...[, vms]: [unknown, string[]]) => {
        read.push(vms);
        return Promise.resolve({ packed: '', parts: 1 });
      },
    });
    const result = await suite.run<RescannedRepository>('rescanRepository', RESCAN_REQUEST, activities);
    expect(read).toEqual([[OTHER_VM], [VM.uuid]]);
    expect(result.findings.skipped).toBe(0);
  });

  it('lets VMs go when the repository cannot be read, and takes nothing over', async () => {
    const { activities, calls } = recorded({ ...rescanSteps(), readStoredVms: fails('RepositoryForeign') });
    const failure = await failureOf(suite.run('rescanRepository', RESCAN_REQUEST, activities));
    expect(failure.type).toBe('RepositoryForeign');
    expect(calls.slice(-2)).toEqual(['readStoredVms', 'releaseVms']);
  });

  it('fetches what does not fit into one answer in parts', async () => {
    const parts: number[] = [];
    let applied: string[] = [];
    const { activities } = recorded({
      ...rescanSteps(),
      readStoredVms: (...[, , part]: [unknown, unknown, number]) => {
        parts.push(part);
        return Promise.resolve({ packed: `part ${part}`, parts: 3 });
      },
      applyRescan: (...[name, vms, all]: [string, string[], string[]]) => {
        applied = all;
        return (rescanSteps().applyRescan as (...given: unknown[]) => Promise<unknown>)(name, vms);
      },
    });
    await suite.run('rescanRepository', { ...RESCAN_REQUEST, dryRun: true }, activities);
    expect(parts).toEqual([0, 1, 2]);
    expect(applied).toEqual(['part 0', 'part 1', 'part 2']);
  });
});
