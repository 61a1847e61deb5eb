import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { after, sighting, T0, takeChain } from './records.ts';

/** What every catalog keeps of VMs: where they were seen, and what state they are in. */
export function vmsSuite(openNew: () => Promise<Catalog>): void {
  describe('VMs', () => {
    it('finds a VM by UUID in any case and by name, and tells namesakes apart', async () => {
      await using catalog = await openNew();
      const [one, two] = [sighting(), sighting()];
      await catalog.vms.recordInventory('kvm-1', [one, two, sighting({ name: 'db-1' })], T0);
      expect(await catalog.vms.findByNameOrUuid('web-1')).toHaveLength(2);
      expect(await catalog.vms.findByNameOrUuid(one.uuid.toUpperCase())).toEqual([
        {
          uuid: one.uuid,
          name: 'web-1',
          host: 'kvm-1',
          power: 'running',
          state: 'Idle',
          error: null,
          offering: null,
          lastSeenAt: T0,
          disks: one.disks,
        },
      ]);
      expect((await catalog.vms.list()).map(({ name }) => name)).toEqual(['db-1', 'web-1', 'web-1']);
      expect(await catalog.vms.findByNameOrUuid('nobody')).toEqual([]);
    });

    it('moves a VM to the host where it runs', async () => {
      await using catalog = await openNew();
      const vm = sighting();
      await catalog.vms.recordInventory('kvm-1', [vm], after(0));
      await catalog.vms.recordInventory('kvm-2', [{ ...vm, host: 'kvm-2' }], after(1));
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ host: 'kvm-2', power: 'running' });
      await catalog.vms.recordInventory('kvm-1', [{ ...vm, power: 'shutoff' }], after(2));
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ host: 'kvm-2', power: 'running' });
      expect((await catalog.vms.sightings(vm.uuid)).map(({ host, power }) => [host, power])).toEqual([
        ['kvm-1', 'shutoff'],
        ['kvm-2', 'running'],
      ]);
    });

    it('leaves a VM that is shut off everywhere with the host where it last ran, while that host has it', async () => {
      await using catalog = await openNew();
      const off = sighting({ power: 'shutoff' });
      await catalog.vms.recordInventory('kvm-2', [{ ...off, host: 'kvm-2', power: 'running' }], after(0));
      await catalog.vms.recordInventory('kvm-1', [off], after(1));
      await catalog.vms.recordInventory('kvm-2', [{ ...off, host: 'kvm-2' }], after(2));
      await catalog.vms.recordInventory('kvm-1', [off], after(3));
      expect(await catalog.vms.find(off.uuid)).toMatchObject({ host: 'kvm-2', power: 'shutoff' });
      await catalog.vms.recordInventory('kvm-2', [], after(4));
      expect(await catalog.vms.find(off.uuid)).toMatchObject({ host: 'kvm-1', power: 'shutoff', lastSeenAt: after(3) });
    });

    it('keeps a VM with backups when no host has it, and forgets one without', async () => {
      await using catalog = await openNew();
      const [kept, forgotten] = [sighting(), sighting()];
      await catalog.vms.recordInventory('kvm-1', [kept, forgotten], after(0));
      await takeChain(catalog, 1, { vmUuid: kept.uuid });
      await catalog.vms.recordInventory('kvm-1', [], after(1));
      expect(await catalog.vms.list()).toHaveLength(1);
      expect(await catalog.vms.find(kept.uuid)).toMatchObject({ host: 'kvm-1', power: 'shutoff' });
      expect(await catalog.vms.sightings(kept.uuid)).toEqual([]);
      await catalog.vms.recordInventory('kvm-2', [{ ...kept, host: 'kvm-2' }], after(2));
      expect(await catalog.vms.find(kept.uuid)).toMatchObject({ host: 'kvm-2', power: 'running' });
    });

    it('keeps state, error and offering through an inventory', async () => {
      await using catalog = await openNew();
      const vm = sighting();
      await catalog.vms.recordInventory('kvm-1', [vm], after(0));
      await catalog.vms.setState(vm.uuid, 'BackupError', 'its job cannot be ended');
      await catalog.vms.setOffering(vm.uuid, 'gold');
      await catalog.vms.recordInventory('kvm-1', [{ ...vm, name: 'web-2', power: 'shutoff' }], after(1));
      const marks = { state: 'BackupError', error: 'its job cannot be ended', offering: 'gold' };
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ name: 'web-2', power: 'shutoff', ...marks });
      await catalog.vms.recordInventory('kvm-1', [], after(2));
      expect(await catalog.vms.find(vm.uuid)).toMatchObject(marks);
      await catalog.vms.setState(vm.uuid, 'Idle');
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ state: 'Idle', error: null });
    });

    it('does not let an inventory that took long undo a newer sighting', async () => {
      await using catalog = await openNew();
      const [vm, other] = [sighting(), sighting({ name: 'db-1' })];
      await catalog.vms.recordInventory('kvm-1', [vm, other], after(0));
      await catalog.vms.recordSighting({ ...vm, power: 'shutoff' }, after(5));
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ power: 'shutoff', lastSeenAt: after(5) });
      await catalog.vms.recordInventory('kvm-1', [vm, { ...other, power: 'shutoff' }], after(3));
      expect(await catalog.vms.find(vm.uuid)).toMatchObject({ power: 'shutoff', lastSeenAt: after(5) });
      expect(await catalog.vms.find(other.uuid)).toMatchObject({ power: 'shutoff', lastSeenAt: after(3) });
    });

    it('takes over what a host answers about one VM, also that it has it no longer', async () => {
      await using catalog = await openNew();
      const [gone, renamed, other] = [sighting(), sighting(), sighting({ name: 'db-1' })];
      await catalog.vms.recordInventory('kvm-1', [gone, renamed, other], after(0));
      await catalog.vms.recordAnswer('kvm-1', 'web-1', [], after(-1)); // a late answer to an older question
      expect(await catalog.vms.list()).toHaveLength(3);
      const web2 = { ...renamed, name: 'web-2' };
      await catalog.vms.recordAnswer('kvm-1', 'web-1', [web2], after(1));
      expect((await catalog.vms.list()).map(({ name }) => name)).toEqual(['db-1', 'web-2']);
      await catalog.vms.recordAnswer('kvm-2', web2.uuid, [{ ...web2, host: 'kvm-2' }], after(2));
      expect(await catalog.vms.find(web2.uuid)).toMatchObject({ host: 'kvm-2' });
      await catalog.vms.recordAnswer('kvm-2', web2.uuid.toUpperCase(), [], after(3));
      expect(await catalog.vms.find(web2.uuid)).toMatchObject({ host: 'kvm-1', lastSeenAt: after(1) });
    });

    it('takes over the inventories of many hosts at once', async () => {
      await using catalog = await openNew();
      const vms = Array.from({ length: 30 }, () => sighting({ power: 'shutoff' }));
      const hosts = Array.from({ length: 8 }, (_, number) => `kvm-${number}`);
      await Promise.all(
        hosts.map((host) =>
          catalog.vms.recordInventory(
            host,
            vms.map((vm) => ({ ...vm, host, power: host === 'kvm-5' ? 'running' : 'shutoff' })),
            T0,
          ),
        ),
      );
      expect((await catalog.vms.list()).map(({ host }) => host)).toEqual(vms.map(() => 'kvm-5'));
    });
  });
}
