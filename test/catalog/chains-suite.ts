import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { after, completed, newBackup, takeChain } from './records.ts';

/** What every catalog keeps of chains, and of the checkpoints and overlays that the next backup needs. */
export function chainsSuite(openNew: () => Promise<Catalog>): void {
  describe('chains', () => {
    it('has the newest backup of the open chain as current, per repository', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const ids = await takeChain(catalog, 3, { vmUuid });
      const [elsewhere] = await takeChain(catalog, 1, { vmUuid, repository: 'offsite' });
      const current = async (repository: string) => (await catalog.backups.current(vmUuid, repository))?.backup.id;
      expect(await current('main')).toBe(ids[2]);
      expect(await current('offsite')).toBe(elsewhere);
      expect(await current('other')).toBeUndefined();
      await catalog.backups.setState(ids[2]!, 'Restoring');
      expect(await current('main')).toBe(ids[2]);
      await catalog.backups.setState(ids[2]!, 'Error');
      expect(await current('main')).toBe(ids[1]);
    });

    it('is not moved by isolated, running or failed backups', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const chainId = randomUUID();
      const [full] = await takeChain(catalog, 1, { vmUuid, chainId });
      const isolated = newBackup({ vmUuid, isolated: true, chainId: null, position: null });
      await catalog.backups.create(isolated);
      await catalog.backups.complete(completed(isolated.id, { instant: after(500) }));
      const failed = newBackup({ vmUuid, chainId, position: 2, parentId: full! });
      await catalog.backups.create(failed);
      await catalog.backups.fail(failed.id, 'Failed', { type: 'X', message: 'x' });
      await catalog.backups.create(newBackup({ vmUuid, chainId, position: 2, parentId: full! }));
      expect((await catalog.backups.current(vmUuid, 'main'))?.backup.id).toBe(full);
      expect(await catalog.backups.lastChain(vmUuid, 'main')).toEqual({ id: chainId, open: true, endedReason: null });
    });

    it('ends with its last backup', async () => {
      await using catalog = await openNew();
      const [vmUuid, chainId] = [randomUUID(), randomUUID()];
      const [full] = await takeChain(catalog, 1, { vmUuid, chainId });
      const last = newBackup({ vmUuid, chainId, position: 2, parentId: full!, endOfChain: true });
      await catalog.backups.create(last);
      expect(await catalog.backups.current(vmUuid, 'main')).toMatchObject({ backup: { id: full } });
      await catalog.backups.complete(completed(last.id, { instant: after(999) }));
      expect(await catalog.backups.current(vmUuid, 'main')).toBeUndefined();
      expect(await catalog.backups.lastChain(vmUuid, 'main')).toEqual({
        id: chainId,
        open: false,
        endedReason: 'chain-size-reached',
      });
    });

    it('ends when told to, keeps the first reason, and marks its newest backup', async () => {
      await using catalog = await openNew();
      const [vmUuid, chainId] = [randomUUID(), randomUUID()];
      const ids = await takeChain(catalog, 2, { vmUuid, chainId });
      await catalog.backups.endChain(chainId, 'finished');
      await catalog.backups.endChain(chainId, 'again');
      await catalog.backups.endChain(randomUUID(), 'unknown');
      expect(await catalog.backups.current(vmUuid, 'main')).toBeUndefined();
      expect(await catalog.backups.lastChain(vmUuid, 'main')).toMatchObject({ open: false, endedReason: 'finished' });
      const ends = await Promise.all(ids.map(async (id) => (await catalog.backups.find(id))?.backup.endOfChain));
      expect(ends).toEqual([false, true]);
    });

    it('goes on after a full that failed, and gives way to one that came about', async () => {
      await using catalog = await openNew();
      const [vmUuid, chainId] = [randomUUID(), randomUUID()];
      const [full] = await takeChain(catalog, 1, { vmUuid, chainId });
      const failed = newBackup({ vmUuid });
      await catalog.backups.create(failed);
      expect(await catalog.backups.current(vmUuid, 'main')).toMatchObject({ backup: { id: full } });
      await catalog.backups.fail(failed.id, 'Failed', { type: 'X', message: 'x' });
      expect(await catalog.backups.current(vmUuid, 'main')).toMatchObject({ backup: { id: full } });
      expect(await catalog.backups.lastChain(vmUuid, 'main')).toMatchObject({ id: chainId, open: true });
      const next = newBackup({ vmUuid });
      await catalog.backups.create(next);
      await catalog.backups.complete(completed(next.id, { instant: after(999) }));
      expect(await catalog.backups.current(vmUuid, 'main')).toMatchObject({ backup: { id: next.id } });
      expect(await catalog.backups.lastChain(vmUuid, 'main')).toMatchObject({ id: next.chainId, open: true });
      expect((await catalog.backups.find(full!))?.backup.endOfChain).toBe(true);
    });
  });

  describe('deltas', () => {
    it('keeps one per backup and disk, and forgets what is told', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const backupId = '11111111-1111-4111-8111-111111111111';
      const vda = {
        backupId,
        target: 'vda',
        path: `/images/a.raw.holdfast-${backupId}.qcow2`,
        frozenPath: '/images/a.raw',
        frozenFormat: 'raw',
        frozenStamp: null,
      };
      const vdb = { ...vda, target: 'vdb', path: `/images/b.raw.holdfast-${backupId}.qcow2`, frozenPath: '/images/b' };
      await catalog.deltas.put(vmUuid, [vdb, vda]);
      await catalog.deltas.put(vmUuid, [{ ...vda, frozenStamp: '1:2:3' }]);
      await catalog.deltas.put(randomUUID(), [vda]);
      expect(await catalog.deltas.list(vmUuid)).toEqual([{ ...vda, frozenStamp: '1:2:3' }, vdb]);
      await catalog.deltas.remove(vmUuid, [vda]);
      await catalog.deltas.remove(vmUuid, [vda]);
      expect(await catalog.deltas.list(vmUuid)).toEqual([vdb]);
    });
  });

  describe('checkpoints', () => {
    const vmUuid = randomUUID();
    const [first, second] = ['11111111-1111-4111-8111-111111111111', '22222222-2222-4222-8222-222222222222'];

    it('promotes one and retires the one before, where only one is kept', async () => {
      await using catalog = await openNew();
      await catalog.checkpoints.put({ vmUuid, backupId: first, state: 'pending', xml: '<a/>' });
      await catalog.checkpoints.put({ vmUuid: randomUUID(), backupId: first, state: 'current', xml: null });
      await catalog.checkpoints.promote(vmUuid, first);
      await catalog.checkpoints.put({ vmUuid, backupId: second, state: 'pending', xml: null });
      await catalog.checkpoints.promote(vmUuid, second, 1);
      await catalog.checkpoints.promote(vmUuid, second, 1);
      expect(await catalog.checkpoints.list(vmUuid)).toEqual([
        { vmUuid, backupId: first, state: 'retired', xml: '<a/>' },
        { vmUuid, backupId: second, state: 'current', xml: null },
      ]);
      await catalog.checkpoints.remove(vmUuid, first);
      await catalog.checkpoints.remove(vmUuid, first);
      expect(await catalog.checkpoints.list(vmUuid)).toHaveLength(1);
    });

    it('does not let a late second attempt put an older one in front', async () => {
      await using catalog = await openNew();
      await catalog.checkpoints.put({ vmUuid, backupId: first, state: 'current', xml: null });
      await catalog.checkpoints.put({ vmUuid, backupId: second, state: 'current', xml: null });
      await catalog.checkpoints.promote(vmUuid, first);
      expect((await catalog.checkpoints.list(vmUuid)).map(({ state }) => state)).toEqual(['kept', 'current']);
    });

    it('keeps the youngest of a chain, and retires all of them when it is over', async () => {
      await using catalog = await openNew();
      const [full, second, third, fourth] = await takeChain(catalog, 4, { vmUuid });
      const states = async () => {
        const known = new Map((await catalog.checkpoints.list(vmUuid)).map(({ backupId, state }) => [backupId, state]));
        return [full, second, third, fourth].map((id) => known.get(id!) ?? '-');
      };
      const promote = async (id: string | undefined, keep: number) => {
        await catalog.checkpoints.put({ vmUuid, backupId: id!, state: 'pending', xml: null });
        await catalog.checkpoints.promote(vmUuid, id!, keep);
      };
      await promote(full, 3);
      await promote(second, 3);
      await promote(third, 3);
      expect(await states()).toEqual(['kept', 'kept', 'current', '-']);
      await catalog.validations.setDamage([third!], 'files: gone');
      await promote(fourth, 3); // a damaged one is no parent: the older ones stay
      expect(await states()).toEqual(['kept', 'kept', 'retired', 'current']);
      await catalog.checkpoints.retireOf(vmUuid, [second!, third!]);
      expect(await states()).toEqual(['kept', 'retired', 'retired', 'current']);
      await catalog.backups.endChain((await catalog.backups.find(full!))!.backup.chainId!, 'requested');
      expect(await states()).toEqual(['retired', 'retired', 'retired', 'retired']);
    });

    it('has a current one per repository, and retires it when its chain is over', async () => {
      await using catalog = await openNew();
      const [main1, offsite1, main2] = [
        newBackup({ vmUuid }),
        newBackup({ vmUuid, repository: 'offsite' }),
        newBackup({ vmUuid }),
      ];
      for (const { id, ...rest } of [main1, offsite1, main2]) {
        await catalog.backups.create({ id, ...rest });
        await catalog.checkpoints.put({ vmUuid, backupId: id, state: 'pending', xml: null });
        await catalog.checkpoints.promote(vmUuid, id);
      }
      const states = async () =>
        new Map((await catalog.checkpoints.list(vmUuid)).map(({ backupId, state }) => [backupId, state]));
      const expected = new Map([main1, offsite1, main2].map(({ id }) => [id, 'current']));
      expect(await states()).toEqual(expected.set(main1.id, 'retired'));
      await catalog.checkpoints.retire(vmUuid, 'main');
      await catalog.checkpoints.retire(vmUuid, 'main');
      await catalog.checkpoints.retire(randomUUID(), 'offsite');
      expect(await states()).toEqual(expected.set(main2.id, 'retired'));
      await catalog.checkpoints.retire(vmUuid, 'offsite');
      expect(await states()).toEqual(expected.set(offsite1.id, 'retired'));
    });

    it('refuses to promote one it does not know', async () => {
      await using catalog = await openNew();
      await expect(catalog.checkpoints.promote(vmUuid, first)).rejects.toThrow('is not in the catalog');
    });
  });
}
