import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { consolidation } from './records.ts';

/** What every catalog keeps of VMs that run on a backup. */
export function consolidationsSuite(openNew: () => Promise<Catalog>): void {
  describe('consolidations', () => {
    it('are noted once, found by VM, changed, and gone when removed', async () => {
      await using catalog = await openNew();
      const one = consolidation();
      await catalog.consolidations.create(one);
      await catalog.consolidations.create({ ...one, state: 'pulling' });
      expect(await catalog.consolidations.find(one.id)).toEqual(one);
      expect(await catalog.consolidations.findByVm('web-1')).toEqual([one]);
      expect(await catalog.consolidations.findByVm(one.vm.uuid.toUpperCase())).toEqual([one]);
      expect(await catalog.consolidations.findByVm('web-2')).toEqual([]);
      const run = { workflowId: 'w', runId: 'r' };
      await catalog.consolidations.update(one.id, {
        state: 'damaged',
        damage: 'altered',
        rateBytesPerSecond: null,
        run,
      });
      const changed = { ...one, state: 'damaged', damage: 'altered', rateBytesPerSecond: null, ...run };
      await catalog.consolidations.update(one.id, {});
      expect(await catalog.consolidations.list()).toEqual([changed]);
      await catalog.consolidations.remove(one.id);
      await catalog.consolidations.remove(one.id);
      expect(await catalog.consolidations.list()).toEqual([]);
    });

    it('are one for a VM at most', async () => {
      await using catalog = await openNew();
      const one = consolidation();
      await catalog.consolidations.create(one);
      await expect(catalog.consolidations.create({ ...consolidation(), vm: one.vm })).rejects.toThrow();
    });
  });
}
