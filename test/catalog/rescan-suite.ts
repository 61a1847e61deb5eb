import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { RescannedBackup, RescannedVm } from '../../catalog/rescans.ts';
import type { Catalog } from '../../catalog/contract.ts';
import { admissionRequest, disk, T0, takeChain } from './records.ts';

const RUN = { operation: 'rescanRepository', workflowId: 'rescan', runId: 'r-1' };
const VMS = [randomUUID(), randomUUID(), randomUUID()].toSorted() as [string, string, string];

/** What a rescan does to every catalog. `openNew` opens an empty one. */
export function rescanSuite(openNew: () => Promise<Catalog>): void {
  describe('claims of many VMs', () => {
    it('are had of all that nobody works on, until they are released', async () => {
      await using catalog = await openNew();
      const [first, second] = VMS;
      const held = admissionRequest({ vmUuid: first });
      await catalog.admissions.request(held);
      expect(await catalog.claims.claim(RUN, [first, second])).toEqual([first]);
      expect(await catalog.claims.claim(RUN, [first, second])).toEqual([first]);
      const waiting = admissionRequest({ vmUuid: second });
      expect(await catalog.admissions.request(waiting)).toMatchObject({ granted: false });
      expect(await catalog.claims.claim({ ...RUN, runId: 'r-2' }, [second])).toEqual([second]);
      expect(await catalog.claims.release(RUN)).toEqual([
        expect.objectContaining({ operationId: waiting.operationId }),
      ]);
      expect(await catalog.claims.release(RUN)).toEqual([]);
      expect((await catalog.admissions.list()).map(({ operationId, state }) => [operationId, state])).toEqual([
        [held.operationId, 'granted'],
        [waiting.operationId, 'granted'],
      ]);
    });

    it('are not had of a VM whose chain is read, and keep readers from the chains of those that are had', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const chainId = randomUUID();
      await takeChain(catalog, 1, { vmUuid, chainId });
      const reader = admissionRequest({ vmUuid: null, chain: { id: chainId, mode: 'shared' } });
      await catalog.admissions.request(reader);
      expect(await catalog.claims.claim(RUN, [vmUuid])).toEqual([vmUuid]);
      await catalog.admissions.release(reader.operationId);
      expect(await catalog.claims.claim(RUN, [vmUuid])).toEqual([]);
      expect(await catalog.admissions.request({ ...reader, operationId: randomUUID() })).toMatchObject({
        granted: false,
      });
    });
  });

  describe('what a rescan found', () => {
    const [uuid] = VMS;
    const full = randomUUID();
    const backup = (id: string, given: Partial<RescannedBackup> = {}): RescannedBackup => ({
      id,
      vmName: 'web-1',
      type: 'full',
      state: 'BackedUp',
      parentId: null,
      chainId: full,
      position: 1,
      isolated: false,
      endOfChain: false,
      consistency: 'crash',
      instant: T0,
      host: 'kvm-1',
      codec: 'zstd',
      compression: 'Compressed',
      strategy: 'checkpoint',
      validation: 'NotValidated',
      validationResult: null,
      requestedBy: null,
      offering: null,
      durationMs: 5,
      disks: [disk()],
      damage: null,
      failure: null,
      ...given,
    });
    const child = randomUUID();
    const vm = (backups: RescannedBackup[], given: Partial<RescannedVm> = {}): RescannedVm => ({
      uuid,
      name: 'web-1',
      host: 'kvm-1',
      repository: 'main',
      backups,
      chains: [{ id: full, state: 'open', size: backups.length, endedReason: null }],
      checkpoints: [{ backupId: child, state: 'current' }],
      ...given,
    });
    const LINE = [
      backup(full),
      backup(child, { type: 'incremental', parentId: full, position: 2, instant: '2026-11-21T13:00:00.000Z' }),
    ];

    it('is what backups, chains and checkpoints of the next backup are, as if they had been taken here', async () => {
      await using catalog = await openNew();
      await catalog.rescans.apply([vm(LINE)], RUN);
      await catalog.rescans.apply([vm(LINE)], RUN);
      expect(await catalog.backups.current(uuid, 'main')).toMatchObject({
        backup: { id: child, storedBytes: 2 ** 30 },
      });
      expect((await catalog.backups.ancestry(child)).map(({ backup: { id } }) => id)).toEqual([full, child]);
      expect(await catalog.checkpoints.list(uuid)).toEqual([
        { vmUuid: uuid, backupId: child, state: 'current', xml: null },
      ]);
      expect(await catalog.vms.find(uuid)).toMatchObject({ name: 'web-1', host: 'kvm-1', power: 'shutoff' });
      expect(await catalog.rescans.chains('main', [uuid])).toEqual(
        new Map([[uuid, [{ id: full, state: 'open', size: 2, endedReason: null }]]]),
      );
    });

    it('leaves alone what people said of a backup: its pin, its offering and who asked for it', async () => {
      await using catalog = await openNew();
      await catalog.rescans.apply([vm(LINE)], RUN);
      await catalog.backups.setPinned(child, true, 'audit');
      const failure = { type: 'BackupFileMissing', message: 'gone' };
      await catalog.rescans.apply([vm([{ ...LINE[1]!, state: 'Error', damage: 'files: gone', failure }])], RUN);
      expect(await catalog.backups.find(child)).toMatchObject({
        backup: { state: 'Error' },
        pinned: true,
        pinNote: 'audit',
        damage: 'files: gone',
        failure,
      });
    });

    it('gives names to what was known without them, and a VM keeps its own', async () => {
      await using catalog = await openNew();
      const hidden = { vmName: uuid, host: 'encrypted' };
      await catalog.rescans.apply([vm([backup(full, hidden)], { name: uuid, host: 'encrypted' })], RUN);
      await catalog.rescans.apply([vm([backup(full, { requestedBy: 'cli:0' })])], RUN);
      expect(await catalog.vms.find(uuid)).toMatchObject({ name: 'web-1', host: 'kvm-1' });
      expect(await catalog.backups.find(full)).toMatchObject({
        backup: { vm: { uuid, name: 'web-1' }, host: 'kvm-1' },
        requestedBy: 'cli:0',
      });
      await catalog.rescans.apply([vm([backup(full, hidden)], { name: uuid, host: 'encrypted' })], RUN);
      expect(await catalog.vms.find(uuid)).toMatchObject({ name: 'web-1', host: 'kvm-1' });
    });

    it('retires the checkpoints of a chain that is over', async () => {
      await using catalog = await openNew();
      await catalog.rescans.apply([vm(LINE)], RUN);
      const over = { id: full, state: 'ended' as const, size: 2, endedReason: 'superseded' };
      await catalog.rescans.apply([vm([], { chains: [over], checkpoints: [] })], RUN);
      expect(await catalog.checkpoints.list(uuid)).toMatchObject([{ backupId: child, state: 'retired' }]);
      expect(await catalog.backups.current(uuid, 'main')).toBeUndefined();
    });

    it('tells which backups another repository has', async () => {
      await using catalog = await openNew();
      await catalog.rescans.apply([vm(LINE)], RUN);
      expect(await catalog.rescans.elsewhere('second', [full, randomUUID()])).toEqual(new Map([[full, 'main']]));
      expect(await catalog.rescans.elsewhere('main', [full])).toEqual(new Map());
    });
  });

  describe('files to check', () => {
    const NOW = '2027-01-01T00:00:00.000Z';
    const filter = { repository: 'main', vmUuid: null, before: NOW };
    const names = (files: { backupId: string }[], ids: string[]) => files.map(({ backupId }) => ids.indexOf(backupId));

    it('come in the order in which they were verified last, or written', async () => {
      await using catalog = await openNew();
      const ids = await takeChain(catalog, 3);
      const [first] = await catalog.checks.files(filter, { after: null, limit: 1 });
      expect(names([first!], ids)).toEqual([0]);
      expect(names(await catalog.checks.files(filter, { after: first!, limit: 9 }), ids)).toEqual([1, 2]);
      await catalog.checks.note('main', [{ ...first!, damage: null }], '2026-12-01T00:00:00.000Z');
      expect(names(await catalog.checks.files(filter, { after: null, limit: 9 }), ids)).toEqual([1, 2, 0]);
      const old = { ...filter, before: '2026-12-01T00:00:00.000Z' };
      expect(names(await catalog.checks.files(old, { after: null, limit: 9 }), ids)).toEqual([1, 2]);
      expect(await catalog.checks.count(old)).toEqual({ files: 2, bytes: 2 * 2 ** 30 });
      expect(await catalog.checks.count(filter, 1)).toEqual({ files: 1, bytes: 2 ** 30 });
      expect(await catalog.checks.count({ ...filter, vmUuid: randomUUID() })).toEqual({ files: 0, bytes: 0 });
    });

    it('are damaged until they are found right, and a file that was replaced meanwhile is not', async () => {
      await using catalog = await openNew();
      const ids = await takeChain(catalog, 1);
      const [file] = await catalog.checks.files(filter, { after: null, limit: 1 });
      await catalog.checks.note('main', [{ ...file!, damage: 'altered' }], NOW);
      await catalog.checks.note('main', [{ ...file!, file: 'another', damage: null }], NOW);
      expect(await catalog.checks.damagedFiles('main', ids)).toEqual(new Map([[file!.file, 'altered']]));
      expect(await catalog.checks.verifiedFiles('main', ids, T0)).toEqual(new Set());
      await catalog.checks.note('main', [{ ...file!, damage: null }], NOW);
      expect(await catalog.checks.damagedFiles('main', ids)).toEqual(new Map());
      expect(await catalog.checks.verifiedFiles('main', ids, T0)).toEqual(new Set([file!.file]));
      expect(await catalog.checks.unverifiedSince('main', null)).toBe(NOW);
    });

    it('heal a backup that was an error for its files, and no other', async () => {
      await using catalog = await openNew();
      const ids = await takeChain(catalog, 1);
      await catalog.validations.setDamage(ids, 'altered');
      expect(await catalog.checks.marked('main')).toMatchObject([{ id: ids[0] }]);
      await catalog.backups.setState(ids[0]!, 'Error');
      await catalog.checks.heal('main', ids);
      expect(await catalog.backups.find(ids[0]!)).toMatchObject({ backup: { state: 'Error' }, damage: null });
      expect(await catalog.checks.marked('main')).toEqual([]);
    });
  });
}
