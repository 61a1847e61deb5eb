import { describe, expect, it } from 'vitest';
import { chainSteps, nothingOpen } from './chain-fakes.ts';
import { vmRecord } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

describe('finishChain', () => {
  const suite = workflowSuite();

  it('ends the chain, then removes what is on the VM, and gives the admission back last', async () => {
    const { activities, calls } = recorded(chainSteps());
    const finished = await suite.run('finishChain', { vm: 'web-1' }, activities);
    expect(finished).toMatchObject({ repaired: [], left: null });
    expect(calls.slice(-5)).toEqual([
      ...['chainState', 'endChains', 'removeCheckpoints', 'checkpointsRemoved', 'releaseAdmission'],
    ]);
  });

  it('has an answer of its own for a VM that nothing protects, and one for a protected VM without open chain', async () => {
    const finish = (activities: ReturnType<typeof chainSteps>) =>
      failureOf(suite.run('finishChain', { vm: 'web-1' }, activities));
    const none = { ...chainSteps(), ...nothingOpen };
    expect(await finish(none)).toMatchObject({ type: 'NotProtected' });
    const match = { ...vmRecord, offering: 'gold' };
    const protectedVm = { ...none, whereIsVm: () => Promise.resolve({ match, hinted: [match.host], others: [] }) };
    expect(await finish(protectedVm)).toMatchObject({ type: 'NothingToFinish' });
    const removed = suite.run('finishChain', { vm: 'web-1', unprotected: true }, none);
    expect(await removed).toMatchObject({ chains: [], left: null });
  });

  it('ends the chain of a VM whose checkpoints cannot be removed, and says that they stay', async () => {
    const { activities, calls } = recorded({ ...chainSteps(), removeCheckpoints: fails('HostRefused', 'no entry') });
    const finished = await suite.run<{ left: string }>('finishChain', { vm: 'web-1' }, activities);
    expect(finished.left).toMatch(/^1 checkpoints stay on VM web-1 until its next backup.*no entry/);
    expect(calls).not.toContain('checkpointsRemoved');
  });
});
