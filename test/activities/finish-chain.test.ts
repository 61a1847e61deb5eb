import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createFinishChain } from '../../activities/control/finish-chain.ts';
import type { ControlDependencies } from '../../activities/control/dependencies.ts';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { after, completed, newBackup, sighting } from '../catalog/records.ts';
import { planOf } from '../workflows/fakes.ts';

const MAIN = { name: 'main', id: randomUUID(), location: { kind: 'directory' as const, path: '/backups' }, slots: 4 };

async function known(): Promise<Catalog & { vmUuid: string }> {
  const catalog = await openCatalog('sqlite::memory:');
  const vm = sighting();
  await catalog.vms.recordInventory('kvm-1', [vm], after(0));
  await catalog.repositories.add(MAIN);
  return { ...catalog, vmUuid: vm.uuid };
}
/** A full whose undo failed, though its manifest had been written. */
async function failedFull(catalog: Catalog & { vmUuid: string }, seconds: number) {
  const id = randomUUID();
  await catalog.backups.create(newBackup({ id, vmUuid: catalog.vmUuid, chainId: id }));
  await catalog.checkpoints.put({ vmUuid: catalog.vmUuid, backupId: id, state: 'pending', xml: null });
  await catalog.backups.fail(id, 'Error', { type: 'HostUnreachable', message: 'no answer' });
  const plan = planOf(id);
  const target = { ...plan.target, vm: { ...plan.target.vm, uuid: catalog.vmUuid } };
  return { id, plan: { ...plan, target }, done: completed(id, { instant: after(seconds) }) };
}
const activitiesOf = (catalog: Catalog) => createFinishChain({ catalog } as unknown as ControlDependencies);

describe('a backup that was published though its run was given up', () => {
  it('is listed, and nothing is built on it, when it is repaired; again: no change', async () => {
    await using catalog = await known();
    const { id, plan, done } = await failedFull(catalog, 60);
    const activities = activitiesOf(catalog);
    for (let attempt = 1; attempt <= 2; attempt += 1) await activities.relistBackup(plan, done);
    expect(await catalog.backups.find(id)).toMatchObject({ backup: { state: 'BackedUp' }, failure: null });
    expect((await catalog.checkpoints.list(catalog.vmUuid)).map(({ state }) => state)).toEqual(['retired']);
    expect((await catalog.vms.find(catalog.vmUuid))?.state).toBe('Idle');
  });

  it('does not end the chain of those that came after it', async () => {
    await using catalog = await known();
    const { id, plan, done } = await failedFull(catalog, 60);
    const newer = randomUUID();
    await catalog.backups.create(newBackup({ id: newer, vmUuid: catalog.vmUuid, chainId: newer }));
    await catalog.backups.complete(completed(newer, { instant: after(120) }));
    await activitiesOf(catalog).relistBackup(plan, done);
    expect((await catalog.backups.find(id))?.backup.state).toBe('BackedUp');
    expect((await catalog.backups.current(catalog.vmUuid, 'main'))?.backup.id).toBe(newer);
  });

  it('leaves a VM marked only for what is on it: a delete that stopped is not', async () => {
    await using catalog = await known();
    const stopped = randomUUID();
    await catalog.backups.create(newBackup({ id: stopped, vmUuid: catalog.vmUuid, chainId: stopped }));
    await catalog.backups.complete(completed(stopped));
    await catalog.backups.setState(stopped, 'Error');
    const { id } = await failedFull(catalog, 60);
    await catalog.vms.setState(catalog.vmUuid, 'BackupError', 'something is left');
    await activitiesOf(catalog).backupRepaired(catalog.vmUuid, id);
    expect((await catalog.vms.find(catalog.vmUuid))?.state).toBe('Idle');
    expect((await catalog.backups.find(stopped))?.backup.state).toBe('Error');
  });
});
