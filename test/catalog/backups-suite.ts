import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { after, completed, disk, newBackup, sighting, T0, takeChain } from './records.ts';

/** What every catalog keeps of backups. */
export function backupsSuite(newUrl: () => Promise<string>): void {
  const openNew = async () => await openCatalog(await newUrl());

  describe('backups', () => {
    it('shows a backup from its creation to its completion', async () => {
      await using catalog = await openNew();
      const backup = newBackup();
      await catalog.backups.create(backup);
      expect(await catalog.backups.find(backup.id)).toMatchObject({
        backup: { state: 'BackingUp', compression: 'None', instant: null, disks: [], storedBytes: 0 },
        workflowId: backup.workflowId,
        runId: backup.runId,
        failure: null,
      });
      const disks = [disk(), disk({ target: 'vdb', number: 1, storedBytes: 7, serial: 's', fullReason: null })];
      await catalog.backups.complete(completed(backup.id, { disks }));
      const record = await catalog.backups.find(backup.id);
      expect(record?.disks).toEqual(disks);
      expect(record?.backup).toEqual({
        id: backup.id,
        vm: { uuid: backup.vmUuid, name: 'web-1' },
        type: 'full',
        state: 'BackedUp',
        parentId: null,
        chainId: backup.chainId,
        position: 1,
        isolated: false,
        endOfChain: false,
        consistency: 'application',
        instant: T0,
        host: 'kvm-1',
        repository: 'main',
        compression: 'Compressed',
        validation: 'NotValidated',
        disks: disks.map(
          ({ target, type, fullReason, file, virtualSizeBytes, changedBytes, readBytes, storedBytes }) => ({
            target,
            type,
            fullReason,
            file,
            virtualSizeBytes,
            changedBytes,
            readBytes,
            storedBytes,
          }),
        ),
        storedBytes: 2 ** 30 + 7,
        durationMs: 61_000,
      });
    });

    it('keeps sizes exact up to the largest whole number', async () => {
      await using catalog = await openNew();
      const backup = newBackup({ compression: 'none' });
      await catalog.backups.create(backup);
      const storedBytes = Number.MAX_SAFE_INTEGER;
      await catalog.backups.complete(completed(backup.id, { disks: [disk({ storedBytes })] }));
      expect((await catalog.backups.find(backup.id))?.backup).toMatchObject({ storedBytes, compression: 'None' });
    });

    it('creates and completes once, however often the steps are repeated', async () => {
      await using catalog = await openNew();
      const backup = newBackup();
      await catalog.backups.create(backup);
      await catalog.backups.create({ ...backup, vmName: 'other' });
      await catalog.backups.complete(completed(backup.id));
      const record = await catalog.backups.find(backup.id);
      await catalog.backups.complete(completed(backup.id, { instant: after(99), disks: [] }));
      await catalog.backups.create(backup);
      await catalog.backups.fail(backup.id, 'Failed', { type: 'X', message: 'too late' });
      expect(await catalog.backups.find(backup.id)).toEqual(record);
      expect(record?.backup.vm.name).toBe('web-1');
    });

    it('completes neither a backup it does not know nor one that was given up', async () => {
      await using catalog = await openNew();
      const backup = newBackup();
      await expect(catalog.backups.complete(completed(backup.id))).rejects.toThrow('is not in the catalog');
      await catalog.backups.create(backup);
      await catalog.backups.fail(backup.id, 'Failed', { type: 'RepositoryFull', message: 'no space' });
      await expect(catalog.backups.complete(completed(backup.id))).rejects.toThrow('was given up (Failed)');
      expect((await catalog.backups.find(backup.id))?.disks).toEqual([]);
    });

    it('tells why a backup failed, and lets a failed undo make it an error', async () => {
      await using catalog = await openNew();
      const backup = newBackup();
      await catalog.backups.create(backup);
      const [first, second] = [
        { type: 'RepositoryFull', message: 'no space' },
        { type: 'HostUnreachable', message: 'the job cannot be ended' },
      ];
      await catalog.backups.fail(backup.id, 'Failed', first);
      expect(await catalog.backups.find(backup.id)).toMatchObject({ backup: { state: 'Failed' }, failure: first });
      await catalog.backups.fail(backup.id, 'Error', second);
      await catalog.backups.fail(backup.id, 'Failed', first);
      expect(await catalog.backups.find(backup.id)).toMatchObject({ backup: { state: 'Error' }, failure: second });
    });

    it('lists newest first, by the instant and not by who finished last', async () => {
      await using catalog = await openNew();
      const [early, late, running] = [newBackup(), newBackup({ vmName: 'db-1', repository: 'offsite' }), newBackup()];
      for (const backup of [late, early]) await catalog.backups.create(backup);
      await catalog.backups.complete(completed(late.id, { instant: '2026-11-21T12:00:00.5Z' }));
      await catalog.backups.complete(completed(early.id, { instant: '2026-11-21T12:00:00Z' }));
      await catalog.backups.create(running);
      const ids = async (filter?: Parameters<typeof catalog.backups.list>[0]) =>
        (await catalog.backups.list(filter)).map(({ id }) => id);
      expect(await ids({ states: ['BackedUp'] })).toEqual([late.id, early.id]);
      expect(await ids({ limit: 2, states: ['BackedUp', 'BackingUp'] })).toHaveLength(2);
      expect(await ids({ vm: 'db-1' })).toEqual([late.id]);
      expect(await ids({ vm: early.vmUuid.toUpperCase() })).toEqual([early.id]);
      expect(await ids({ repository: 'offsite' })).toEqual([late.id]);
      expect(await ids({ states: [] })).toEqual([]);
      expect((await catalog.backups.list({ vm: 'db-1' }))[0]?.disks).toHaveLength(1);
    });

    it('hides what was removed unless all is asked for', async () => {
      await using catalog = await openNew();
      const [full, incremental] = await takeChain(catalog, 2);
      expect(await catalog.backups.setState(full!, 'Removed', ['BackedUp'])).toBe(true);
      expect(await catalog.backups.setState(full!, 'Expunged', ['BackedUp', 'Failed'])).toBe(false);
      expect(await catalog.backups.setState(randomUUID(), 'Removed')).toBe(false);
      expect(await catalog.backups.setState(full!, 'Failed', [])).toBe(false);
      expect((await catalog.backups.list()).map(({ id }) => id)).toEqual([incremental]);
      expect(await catalog.backups.list({ all: true })).toHaveLength(2);
      expect((await catalog.backups.list({ states: ['Removed'] })).map(({ id }) => id)).toEqual([full]);
    });

    it('finds a backup by the beginning of its id, four characters or more', async () => {
      await using catalog = await openNew();
      const ids = ['aaaa1111', 'aaaa2222', 'ffffffff'].map((start) => `${start}${randomUUID().slice(8)}`);
      for (const id of ids) await catalog.backups.create(newBackup({ id }));
      const found = async (prefix: string) =>
        (await catalog.backups.findByIdPrefix(prefix)).map(({ backup }) => backup.id);
      expect(await found('aaaa')).toEqual(ids.slice(0, 2));
      expect(await found('AAAA1')).toEqual([ids[0]]);
      expect(await found('ffff')).toEqual([ids[2]]);
      expect(await found(ids[2]!)).toEqual([ids[2]]);
      for (const prefix of ['aaa', '%%%%', '____', 'aaaag', '']) expect(await found(prefix)).toEqual([]);
    });

    it('gives the line from the full to a backup, the children of one, and what is unfinished', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const ids = await takeChain(catalog, 5, { vmUuid });
      await takeChain(catalog, 2);
      const idsOf = (records: { backup: { id: string } }[]) => records.map(({ backup }) => backup.id);
      expect(idsOf(await catalog.backups.ancestry(ids[3]!))).toEqual(ids.slice(0, 4));
      expect((await catalog.backups.ancestry(ids[3]!)).every(({ disks }) => disks.length === 1)).toBe(true);
      expect(idsOf(await catalog.backups.children(ids[3]!))).toEqual([ids[4]]);
      expect(await catalog.backups.children(ids[4]!)).toEqual([]);
      expect(await catalog.backups.ancestry(randomUUID())).toEqual([]);
      const running = newBackup({ vmUuid });
      await catalog.backups.create(running);
      await catalog.backups.create(newBackup());
      expect(idsOf(await catalog.backups.unfinished(vmUuid))).toEqual([running.id]);
      expect(await catalog.backups.unfinished()).toHaveLength(2);
    });

    it('refuses a backup whose parent or chain it does not know', async () => {
      await using catalog = await openNew();
      await expect(catalog.backups.create(newBackup({ position: 2 }))).rejects.toThrow(/foreign key/i);
      await expect(catalog.backups.create(newBackup({ parentId: randomUUID() }))).rejects.toThrow(/foreign key/i);
      expect(await catalog.backups.list({ all: true })).toEqual([]);
    });

    it('says that a VM was backed up before only when a backup came about', async () => {
      await using catalog = await openNew();
      const backup = newBackup();
      await catalog.backups.create(backup);
      expect(await catalog.backups.hasAny(backup.vmUuid)).toBe(false);
      await catalog.backups.complete(completed(backup.id));
      await catalog.backups.setState(backup.id, 'Expunged');
      expect(await catalog.backups.hasAny(backup.vmUuid)).toBe(true);
    });

    it('knows the numbers of all disks a VM ever had, the newest winning', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const take = async (seconds: number, disks: [string, number][]) => {
        const backup = newBackup({ vmUuid });
        await catalog.backups.create(backup);
        const records = disks.map(([target, number]) => disk({ target, number }));
        await catalog.backups.complete(completed(backup.id, { instant: after(seconds), disks: records }));
      };
      await take(2, [['vda', 5]]);
      await take(1, [['vda', 0], ['vdb', 1]]); // prettier-ignore
      expect(Object.fromEntries(await catalog.backups.diskNumbers(vmUuid))).toEqual({ vda: 5, vdb: 1 });
      expect(await catalog.backups.diskNumbers(randomUUID())).toEqual(new Map());
    });
  });

  it('lists ten thousand backups in reasonable time, and a few of them at once', { timeout: 60_000 }, async () => {
    const url = await newUrl();
    const { db } = await openDatabase(url);
    await using catalog = await openCatalog(url);
    const vm = newBackup();
    await catalog.backups.create(vm);
    await catalog.backups.complete(completed(vm.id));
    await catalog.vms.recordInventory('kvm-1', [sighting({ uuid: vm.vmUuid })], T0);
    const [row, diskRow] = [
      await db.selectFrom('backups').selectAll().executeTakeFirstOrThrow(),
      await db.selectFrom('backup_disks').selectAll().executeTakeFirstOrThrow(),
    ];
    for (let block = 0; block < 20; block++) {
      const ids = Array.from({ length: 500 }, () => randomUUID());
      await db
        .insertInto('backups')
        .values(
          ids.map((id, i) => ({
            ...row,
            id,
            vm_uuid: `vm-${i}`,
            vm_name: `web-${i}`,
            chain_id: null,
            sort_time: after(block * 500 + i),
          })),
        )
        .execute();
      const disks = ids.flatMap((backup_id) => ['vda', 'vdb'].map((target) => ({ ...diskRow, backup_id, target })));
      await db.insertInto('backup_disks').values(disks).execute();
    }
    await sql`analyze`.execute(db);
    await db.destroy();
    const timed = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
      const started = performance.now();
      return [await work(), performance.now() - started];
    };
    // As ratios, because the machine may be busy: without the indexes all three take about the same.
    const [all, allMs] = await timed(() => catalog.backups.list());
    expect(all).toHaveLength(10_001);
    const [newest, newestMs] = await timed(() => catalog.backups.list({ limit: 20 }));
    expect(newest[0]?.vm.name).toBe('web-499');
    expect(newestMs).toBeLessThan(allMs / 4);
    const [ofOne, ofOneMs] = await timed(() => catalog.backups.list({ vm: 'web-7' }));
    expect(ofOne).toHaveLength(20);
    expect(ofOneMs).toBeLessThan(allMs / 4);
  });
}
