import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { after, disk, T0, takeChain } from './records.ts';

/** What every catalog keeps of copies. */
export function copiesSuite(openNew: () => Promise<Catalog>): void {
  const RUN = { operationId: 'o1', workflowId: 'copyBackup-1', runId: 'r1' };
  const OTHER = { operationId: 'o2', workflowId: 'copyBackup-2', runId: 'r2' };
  const THERE = { repository: 'off-site' };
  const DONE = {
    state: 'Copied' as const,
    type: 'full' as const,
    parentId: null,
    disks: [disk()],
    copiedAt: after(600),
  };

  /** A chain with a copy of each, those of its disks with the same names. */
  async function copied(catalog: Catalog, length: number): Promise<string[]> {
    const ids = await takeChain(catalog, length);
    for (const [index, backupId] of ids.entries()) {
      await catalog.copies.begin({ backupId, ...THERE, ...RUN });
      const parentId = ids[index - 1] ?? null;
      await catalog.copies.complete(backupId, 'off-site', RUN.operationId, {
        ...DONE,
        parentId,
        copiedAt: after(600 + index),
      });
    }
    return ids;
  }

  describe('copies', () => {
    it('are made by one operation at a time, and once', async () => {
      await using catalog = await openNew();
      const [backupId = ''] = await takeChain(catalog, 1);
      const copy = { backupId, ...THERE };
      expect(await catalog.copies.begin({ ...copy, ...RUN })).toBeNull();
      expect(await catalog.copies.begin({ ...copy, ...RUN })).toBeNull();
      expect(await catalog.copies.begin({ ...copy, ...OTHER })).toEqual(RUN);
      expect(await catalog.copies.running()).toEqual([{ ...copy, vmName: 'web-1', ...RUN }]);
      await catalog.copies.complete(backupId, 'off-site', OTHER.operationId, DONE);
      expect(await catalog.copies.find(backupId, 'off-site')).toMatchObject({ state: 'Copying', disks: [] });
      await catalog.copies.complete(backupId, 'off-site', RUN.operationId, DONE);
      await catalog.copies.complete(backupId, 'off-site', RUN.operationId, { ...DONE, state: 'Removed' });
      expect(await catalog.copies.find(backupId, 'off-site')).toMatchObject({ ...DONE, storedBytes: 2 ** 30 });
      expect(await catalog.copies.begin({ ...copy, ...OTHER })).toBe('there');
      expect(await catalog.copies.running()).toEqual([]);
    });

    it('that did not come about are forgotten, or tell why', async () => {
      await using catalog = await openNew();
      const [backupId = ''] = await takeChain(catalog, 1);
      await catalog.copies.begin({ backupId, ...THERE, ...RUN });
      await catalog.copies.end(backupId, 'off-site', OTHER.operationId, null);
      expect(await catalog.copies.find(backupId, 'off-site')).toBeDefined();
      await catalog.copies.end(backupId, 'off-site', RUN.operationId, null);
      expect(await catalog.copies.find(backupId, 'off-site')).toBeUndefined();
      await catalog.copies.begin({ backupId, ...THERE, ...RUN });
      const failure = { type: 'RepositoryFull', message: 'no room' };
      await catalog.copies.end(backupId, 'off-site', RUN.operationId, failure);
      expect(await catalog.copies.find(backupId, 'off-site')).toMatchObject({ state: 'CopyError', failure });
      expect(await catalog.copies.begin({ backupId, ...THERE, ...OTHER })).toBeNull();
      expect(await catalog.copies.find(backupId, 'off-site')).toMatchObject({ state: 'Copying', failure: null });
    });

    it('that are found are noted, unless somebody writes them', async () => {
      await using catalog = await openNew();
      const [first = '', second = ''] = await takeChain(catalog, 2);
      await catalog.copies.begin({ backupId: first, ...THERE, ...RUN });
      for (const backupId of [first, second]) await catalog.copies.note({ backupId, ...THERE, ...DONE });
      expect(await catalog.copies.find(first, 'off-site')).toMatchObject({ state: 'Copying' });
      expect(await catalog.copies.find(second, 'off-site')).toMatchObject(DONE);
    });

    it('are listed newest first, by VM, place and state, also when their originals are gone', async () => {
      await using catalog = await openNew();
      const ids = await copied(catalog, 2);
      await copied(catalog, 1);
      const vm = (await catalog.backups.find(ids[0]!))!.backup.vm.uuid;
      for (const id of ids) await catalog.backups.setState(id, 'Expunged');
      expect((await catalog.copies.list({ vm })).map(({ backupId }) => backupId)).toEqual(ids.toReversed());
      expect(await catalog.copies.setState(ids[1]!, 'off-site', 'Removed', ['Copied'])).toBe(true);
      expect(await catalog.copies.setState(ids[1]!, 'off-site', 'Removed', ['Copied'])).toBe(false);
      expect(await catalog.copies.list({ vm, states: ['Copied'] })).toMatchObject([{ backupId: ids[0] }]);
      expect(await catalog.copies.list({ vm, repository: 'main' })).toEqual([]);
      expect(await catalog.copies.list({ vm, states: [] })).toEqual([]);
      const listed = await catalog.backups.list({ vm, copied: true });
      expect(listed.map(({ id, state }) => [id, state])).toEqual([[ids[0], 'Expunged']]);
    });
  });

  describe('files of copies to check', () => {
    const filter = { repository: 'off-site', vmUuid: null, before: '2027-01-01T00:00:00.000Z' };
    const all = { after: null, limit: 9 };

    it('are those of the repository, in their order, as long as the copies have files', async () => {
      await using catalog = await openNew();
      const ids = await copied(catalog, 3);
      const names = async () => (await catalog.checks.files(filter, all)).map(({ backupId }) => ids.indexOf(backupId));
      expect(await names()).toEqual([0, 1, 2]);
      const [first] = await catalog.checks.files(filter, all);
      expect(first).toMatchObject({
        target: 'vda',
        file: disk().file,
        storedBytes: 2 ** 30,
        unverifiedSince: after(600),
      });
      await catalog.checks.note('off-site', [{ ...first!, damage: null }], after(9000));
      expect(await names()).toEqual([1, 2, 0]);
      expect(await catalog.copies.find(ids[0]!, 'off-site')).toMatchObject({ verifiedAt: after(9000) });
      expect(await catalog.checks.verifiedFiles('off-site', ids, after(9000))).toEqual(new Set([disk().file]));
      expect(await catalog.checks.verifiedFiles('main', ids, T0)).toEqual(new Set()); // the original's has the same name
      await catalog.copies.setState(ids[1]!, 'off-site', 'Removed');
      await catalog.copies.setState(ids[2]!, 'off-site', 'Expunged');
      expect(await names()).toEqual([1, 0]);
      expect(await catalog.checks.count(filter)).toEqual({ files: 2, bytes: 2 ** 31 });
      expect(await catalog.checks.unverifiedSince('off-site', null)).toBe(after(601));
    });

    it('are damaged in their repository alone, and the mark of a copy is not that of its original', async () => {
      await using catalog = await openNew();
      const [id = ''] = await copied(catalog, 1);
      const [file] = await catalog.checks.files(filter, all);
      await catalog.checks.note('off-site', [{ ...file!, damage: 'altered' }], after(9000));
      expect(await catalog.checks.damagedFiles('off-site', [id])).toEqual(new Map([[disk().file, 'altered']]));
      expect(await catalog.checks.damagedFiles('main', [id])).toEqual(new Map());
      await catalog.copies.setDamage('off-site', [id], 'bytes: altered');
      await catalog.validations.setDamage([id], 'files: short');
      expect(await catalog.checks.marked('off-site')).toMatchObject([{ id }]);
      await catalog.checks.heal('off-site', [id]);
      expect(await catalog.checks.marked('off-site')).toEqual([]);
      expect(await catalog.copies.find(id, 'off-site')).toMatchObject({ damage: null });
      expect(await catalog.backups.find(id)).toMatchObject({ damage: 'files: short' });
    });

    it('that are written anew say nothing of those before', async () => {
      await using catalog = await openNew();
      const [backupId = ''] = await copied(catalog, 1);
      const [file] = await catalog.checks.files(filter, all);
      await catalog.checks.note('off-site', [{ ...file!, damage: 'altered' }], after(9000));
      await catalog.copies.setState(backupId, 'off-site', 'Expunged');
      await catalog.copies.begin({ backupId, ...THERE, ...OTHER });
      await catalog.copies.complete(backupId, 'off-site', OTHER.operationId, DONE);
      expect(await catalog.checks.damagedFiles('off-site', [backupId])).toEqual(new Map());
      expect(await catalog.copies.find(backupId, 'off-site')).toMatchObject({ state: 'Copied', verifiedAt: null });
    });
  });
}
