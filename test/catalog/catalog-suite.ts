import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { isWorthRepeating, oneAtATime } from '../../catalog/transaction.ts';
import { offering } from '../../schemas/catalog.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import { tempDir } from '../support/temp.ts';
import { startProgram } from './program.ts';
import {
  admissionRequest,
  after,
  completed,
  consolidation,
  disk,
  newBackup,
  sighting,
  T0,
  takeChain,
} from './records.ts';
import { rescanSuite } from './rescan-suite.ts';
import { scheduleSuite } from './schedule-suite.ts';

/** What every catalog does, whichever database keeps it. `newUrl` names an empty one. */
export function catalogSuite(newUrl: () => Promise<string>): void {
  const openNew = async () => await openCatalog(await newUrl());

  describe('hosts, repositories, offerings, events', () => {
    it('adds a host with four slots and changes only what is given', async () => {
      await using catalog = await openNew();
      const added = await catalog.hosts.upsert({ name: 'kvm-1', libvirtAddress: 'unix:/run/libvirt.sock' });
      expect(added).toEqual({
        name: 'kvm-1',
        slots: 4,
        libvirtAddress: 'unix:/run/libvirt.sock',
        libvirtVersion: null,
        qemuVersion: null,
        lastSeenAt: null,
      });
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 2, lastSeenAt: T0 });
      expect(await catalog.hosts.find('kvm-1')).toEqual({ ...added, slots: 2, lastSeenAt: T0 });
      expect(await catalog.hosts.upsert({ name: 'kvm-1', libvirtAddress: null })).toMatchObject({
        slots: 2,
        libvirtAddress: null,
      });
    });

    it('has an id of its own, which stays', async () => {
      const url = await newUrl();
      await using catalog = await openCatalog(url);
      const ids = await Promise.all([1, 2, 3].map(() => catalog.installation()));
      expect(new Set(ids).size).toBe(1);
      await using again = await openCatalog(url);
      expect(await again.installation()).toBe(ids[0]);
      await using other = await openNew();
      expect(await other.installation()).not.toBe(ids[0]);
    });

    it('lists hosts by name, in the order of bytes on every engine, and removes them', async () => {
      await using catalog = await openNew();
      for (const name of ['b', 'a-2', 'B', 'a_1', 'a.3']) await catalog.hosts.upsert({ name });
      await catalog.hosts.remove('b');
      await catalog.hosts.remove('b');
      expect((await catalog.hosts.list()).map(({ name }) => name)).toEqual(['B', 'a-2', 'a.3', 'a_1']);
      expect(await catalog.hosts.find('b')).toBeUndefined();
    });

    const MAIN = {
      name: 'main',
      id: randomUUID(),
      location: { kind: 'directory', path: '/backups' },
      slots: 8,
    } as const;

    it('adds a repository once, and again without a change', async () => {
      await using catalog = await openNew();
      const added = await catalog.repositories.add(MAIN);
      expect(await catalog.repositories.add(MAIN)).toEqual(added);
      expect(await catalog.repositories.list()).toEqual([added]);
      expect(added).toMatchObject(MAIN);
    });

    it('refuses a second repository of the same name, and the same repository under a second name', async () => {
      await using catalog = await openNew();
      await catalog.repositories.add(MAIN);
      await expect(catalog.repositories.add({ ...MAIN, id: randomUUID() })).rejects.toThrow('another id');
      await expect(catalog.repositories.add({ ...MAIN, name: 'other' })).rejects.toThrow('known already, as main');
      await catalog.repositories.remove('main');
      expect(await catalog.repositories.find('main')).toBeUndefined();
    });

    it('refuses what somebody else wrote into a JSON column', async () => {
      const url = await newUrl();
      await using catalog = await openCatalog(url);
      await catalog.repositories.add(MAIN);
      const { db } = await openDatabase(url);
      await db.updateTable('repositories').set({ location: '{"kind":"tape"}' }).execute();
      await db.destroy();
      await expect(catalog.repositories.find('main')).rejects.toThrow('kind');
    });

    it('keeps offerings whole', async () => {
      await using catalog = await openNew();
      const gold = offering.parse({ name: 'gold', chainSize: 30, excludeDisks: ['vdb'], tenant: 'blue' });
      await catalog.offerings.upsert(gold);
      await catalog.offerings.upsert({ ...gold, priority: 1 });
      expect(await catalog.offerings.find('gold')).toEqual({ ...gold, priority: 1 });
      expect(await catalog.offerings.list()).toHaveLength(1);
      await catalog.offerings.remove('gold');
      expect(await catalog.offerings.find('gold')).toBeUndefined();
    });

    it('lists events newest first', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      await catalog.events.record({ at: T0, kind: 'backup', vmUuid, message: 'first' });
      await catalog.events.record({ at: T0, kind: 'host', message: 'second' });
      await catalog.events.record({
        at: T0,
        kind: 'backup',
        vmUuid,
        backupId: 'b',
        message: 'third',
        detail: { n: 3 },
      });
      const messages = async (filter?: { vmUuid?: string; limit?: number }) =>
        (await catalog.events.list(filter)).map(({ message }) => message);
      expect(await messages()).toEqual(['third', 'second', 'first']);
      expect(await messages({ vmUuid })).toEqual(['third', 'first']);
      expect(await messages({ limit: 1 })).toEqual(['third']);
      expect((await catalog.events.list({ limit: 1 }))[0]).toEqual({
        at: T0,
        kind: 'backup',
        vmUuid,
        backupId: 'b',
        message: 'third',
        detail: { n: 3 },
      });
      expect((await catalog.events.list())[1]).toMatchObject({ message: 'second', detail: null });
    });
  });

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

  describe('validations', () => {
    const RUN = { workflowId: 'validateBackup-1', runId: 'r1' };
    const OTHER = { workflowId: 'validateBackup-2', runId: 'r2' };
    const result = (given: Partial<ValidationResult> = {}): ValidationResult => ({
      state: 'Valid',
      steps: [{ step: 'boot', result: 'passed', detail: 'answered', durationMs: 3_000 }],
      bootMs: 3_000,
      validatedAt: T0,
      host: 'kvm-1',
      screenshot: null,
      ...given,
    });

    it('gives a backup to one run at a time, and its former state back', async () => {
      await using catalog = await openNew();
      const [id = ''] = await takeChain(catalog, 1);
      const stateOf = async () => (await catalog.backups.find(id))?.backup.validation;
      expect(await catalog.validations.begin(id, RUN)).toBeNull();
      expect(await catalog.validations.begin(id, RUN)).toBeNull();
      expect(await catalog.validations.begin(id, OTHER)).toEqual(RUN);
      expect(await catalog.validations.running()).toEqual([{ backupId: id, vmName: 'web-1', ...RUN }]);
      await catalog.validations.restore(id, OTHER);
      expect(await stateOf()).toBe('Validating');
      await catalog.validations.restore(id, RUN);
      expect(await stateOf()).toBe('NotValidated');
      await catalog.validations.begin(id, OTHER);
      await catalog.validations.complete(id, result());
      await catalog.validations.restore(id, OTHER); // its undo leaves the result alone
      expect(await stateOf()).toBe('Valid');
      expect(await catalog.validations.resultOf(id)).toEqual(result());
      expect(await catalog.validations.running()).toEqual([]);
    });

    it('remembers the last proven boot of a VM, through validations that boot nothing', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const [first = '', second = ''] = await takeChain(catalog, 2, { vmUuid });
      expect(await catalog.validations.lastBoot(vmUuid)).toBeNull();
      await catalog.validations.complete(second, result());
      await catalog.validations.complete(first, result({ validatedAt: after(60), bootMs: 5_000 }));
      const hashed = result({ steps: [], bootMs: null, validatedAt: after(120) });
      await catalog.validations.complete(first, hashed);
      expect(await catalog.validations.lastBoot(vmUuid)).toEqual({
        backupId: first,
        bootedAt: after(60),
        bootMs: 5_000,
      });
      expect(await catalog.validations.resultOf(first)).toEqual(hashed);
      expect(await catalog.validations.lastBoot(randomUUID())).toBeNull();
    });

    it('marks backups as damaged, and takes it back', async () => {
      await using catalog = await openNew();
      const [first = '', second = ''] = await takeChain(catalog, 2);
      const damages = async () =>
        await Promise.all([first, second].map(async (id) => (await catalog.backups.find(id))?.damage));
      await catalog.validations.setDamage([first, second], 'altered');
      expect(await damages()).toEqual(['altered', 'altered']);
      await catalog.validations.setDamage([first], null);
      await catalog.validations.setDamage([], null);
      expect(await damages()).toEqual([null, 'altered']);
    });
  });

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

  scheduleSuite(openNew);
  rescanSuite(openNew);

  describe('admissions', () => {
    it('grants a VM to one operation at a time, and tells the other what it waits for', async () => {
      await using catalog = await openNew();
      const vm = sighting();
      await catalog.vms.recordInventory('kvm-1', [vm], T0);
      const [one, two] = [admissionRequest({ vmUuid: vm.uuid }), admissionRequest({ vmUuid: vm.uuid })];
      expect(await catalog.admissions.request(one)).toEqual({ granted: true });
      const { operationId, workflowId, runId } = one;
      const refused = {
        granted: false,
        waitingFor: `waiting for VM web-1: takeBackup ${workflowId} runs on it`,
        blockers: [{ operationId, workflowId, runId }],
      };
      expect(await catalog.admissions.request(two)).toEqual(refused);
      expect(await catalog.admissions.request(two)).toEqual(refused);
      expect(await catalog.admissions.request(one)).toEqual({ granted: true });
      expect(await catalog.admissions.list()).toMatchObject([
        { ...one, state: 'granted', waitingFor: null },
        { ...two, state: 'waiting', waitingFor: refused.waitingFor },
      ]);
      expect(await catalog.admissions.release(one.operationId)).toEqual([
        { operationId: two.operationId, workflowId: two.workflowId, runId: two.runId },
      ]);
      expect(await catalog.admissions.release(one.operationId)).toEqual([]);
      expect(await catalog.admissions.request(two)).toEqual({ granted: true });
      expect(await catalog.admissions.release(two.operationId)).toEqual([]);
      expect(await catalog.admissions.list()).toEqual([]);
    });

    it('calls a backup restoring as long as one restore of it is admitted', async () => {
      await using catalog = await openNew();
      const vm = sighting();
      await catalog.vms.recordInventory('kvm-1', [vm], T0);
      const backupId = randomUUID();
      const [one, two] = [1, 2].map(() => admissionRequest({ restoresBackupId: backupId }));
      const waiting = admissionRequest({ vmUuid: vm.uuid, restoresBackupId: randomUUID() });
      await catalog.admissions.request(admissionRequest({ vmUuid: vm.uuid }));
      for (const request of [one, two, waiting]) if (request !== undefined) await catalog.admissions.request(request);
      expect(await catalog.admissions.restoring()).toEqual(new Set([backupId]));
      await catalog.admissions.release(one?.operationId ?? '');
      expect(await catalog.admissions.restoring()).toEqual(new Set([backupId]));
      await catalog.admissions.release(two?.operationId ?? '');
      expect(await catalog.admissions.restoring()).toEqual(new Set());
    });

    it('hands what was granted over to another run, and gives the slots back', async () => {
      await using catalog = await openNew();
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 1 });
      const [vm, id] = [randomUUID(), randomUUID()];
      const chain = { id: randomUUID(), mode: 'shared' as const };
      const one = admissionRequest({ operationId: id, vmUuid: null, chain, host: 'kvm-1' });
      const copy = admissionRequest({ vmUuid: null, host: 'kvm-1' });
      const to = {
        operation: 'consolidateDisks',
        workflowId: 'consolidateDisks-web-1',
        runId: randomUUID(),
        vmUuid: vm,
      };
      expect(await catalog.admissions.handOver(id, to)).toBeUndefined();
      expect(await catalog.admissions.request(one)).toEqual({ granted: true });
      expect(await catalog.admissions.request(copy)).toMatchObject({ granted: false });
      expect(await catalog.admissions.handOver(id, to)).toMatchObject([{ operationId: copy.operationId }]);
      expect(await catalog.admissions.handOver(id, to)).toEqual([]);
      const backup = admissionRequest({ vmUuid: vm, host: null });
      expect(await catalog.admissions.request(backup)).toMatchObject({
        granted: false,
        blockers: [{ operationId: id, workflowId: to.workflowId, runId: to.runId }],
      });
      const remove = admissionRequest({ vmUuid: null, host: null, chain: { ...chain, mode: 'exclusive' } });
      expect(await catalog.admissions.request(remove)).toMatchObject({ granted: false });
    });

    it('counts the slots of hosts and repositories, four where no number is known', async () => {
      await using catalog = await openNew();
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 1 });
      await catalog.repositories.add({
        name: 'main',
        id: randomUUID(),
        location: { kind: 'directory', path: '/backups' },
        slots: 6,
      });
      const ask = async (host: string) => await catalog.admissions.request(admissionRequest({ host }));
      expect(await ask('kvm-1')).toEqual({ granted: true });
      expect(await ask('kvm-1')).toMatchObject({ waitingFor: 'waiting for a slot of host kvm-1 (1 of 1 in use)' });
      for (let slot = 0; slot < 4; slot++) expect(await ask('new')).toEqual({ granted: true });
      expect(await ask('new')).toMatchObject({ waitingFor: 'waiting for a slot of host new (4 of 4 in use)' });
      expect(await ask('kvm-3')).toEqual({ granted: true });
      const refused = await ask('kvm-4');
      expect(refused).toMatchObject({ waitingFor: 'waiting for a slot of repository main (6 of 6 in use)' });
      expect(!refused.granted && refused.blockers).toHaveLength(6);
    });

    it('keeps the place of one that asks again, also with other wishes', async () => {
      await using catalog = await openNew();
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 1 });
      await catalog.hosts.upsert({ name: 'kvm-2', slots: 1 });
      const [holder1, holder2] = [admissionRequest(), admissionRequest({ host: 'kvm-2' })];
      for (const holder of [holder1, holder2]) await catalog.admissions.request(holder);
      const [migrated, later] = [admissionRequest(), admissionRequest({ host: 'kvm-2' })];
      for (const request of [migrated, later]) await catalog.admissions.request(request);
      expect(await catalog.admissions.request({ ...migrated, host: 'kvm-2' })).toMatchObject({
        waitingFor: 'waiting for a slot of host kvm-2 (1 of 1 in use)',
      });
      expect(await catalog.admissions.release(holder2.operationId)).toMatchObject([
        { operationId: migrated.operationId },
      ]);
    });

    it('lets readers of a chain in together, and none of them past a waiting writer', async () => {
      await using catalog = await openNew();
      const chain = (mode: 'shared' | 'exclusive') => ({ id: vmUuidOfChain, mode });
      const vmUuidOfChain = randomUUID();
      const [reader1, reader2, writer, reader3] = [
        admissionRequest({ chain: chain('shared') }),
        admissionRequest({ chain: chain('shared') }),
        admissionRequest({ chain: chain('exclusive') }),
        admissionRequest({ chain: chain('shared') }),
      ];
      const granted = [];
      for (const request of [reader1, reader2, writer, reader3]) {
        granted.push((await catalog.admissions.request(request)).granted);
      }
      expect(granted).toEqual([true, true, false, false]);
      expect(await catalog.admissions.request(reader3)).toMatchObject({
        waitingFor: `waiting for chain ${vmUuidOfChain}: takeBackup ${writer.workflowId} comes first`,
        blockers: [{ operationId: writer.operationId }],
      });
      expect(await catalog.admissions.release(reader1.operationId)).toEqual([]);
      expect(await catalog.admissions.release(reader2.operationId)).toMatchObject([
        { operationId: writer.operationId },
      ]);
      expect(await catalog.admissions.release(writer.operationId)).toMatchObject([
        { operationId: reader3.operationId },
      ]);
    });

    it('frees the queue when one that waited gives up', async () => {
      await using catalog = await openNew();
      const id = randomUUID();
      const [reader, writer, reader2] = [
        admissionRequest({ chain: { id, mode: 'shared' } }),
        admissionRequest({ chain: { id, mode: 'exclusive' } }),
        admissionRequest({ chain: { id, mode: 'shared' } }),
      ];
      for (const request of [reader, writer, reader2]) await catalog.admissions.request(request);
      expect(await catalog.admissions.release(writer.operationId)).toMatchObject([
        { operationId: reader2.operationId },
      ]);
    });

    it('grants by asking again what new slots allow', async () => {
      await using catalog = await openNew();
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 1 });
      const [one, two] = [admissionRequest(), admissionRequest()];
      for (const request of [one, two]) await catalog.admissions.request(request);
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 2 });
      expect(await catalog.admissions.request(two)).toEqual({ granted: true });
    });

    it('keeps hundreds of waiting operations in order', { timeout: 60_000 }, async () => {
      await using catalog = await openNew();
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 1 });
      const queue = Array.from({ length: 300 }, () => admissionRequest());
      for (const request of queue) await catalog.admissions.request(request);
      for (const [place, { operationId }] of queue.slice(0, 20).entries()) {
        expect(await catalog.admissions.release(operationId)).toMatchObject([
          { operationId: queue[place + 1]!.operationId },
        ]);
      }
    });
  });

  describe('transactions', () => {
    it('keeps the statements of concurrent transactions of one process apart', async () => {
      const database = await openDatabase(await newUrl());
      await database.db.insertInto('hosts').values(HOST).execute();
      await Promise.all(
        Array.from({ length: 40 }, () =>
          oneAtATime(database, 'vms', async (trx) => {
            const { slots } = await trx.selectFrom('hosts').select('slots').executeTakeFirstOrThrow();
            await sql`select 1`.execute(trx);
            await trx
              .updateTable('hosts')
              .set({ slots: slots + 1 })
              .execute();
          }),
        ),
      );
      expect(await database.db.selectFrom('hosts').select('slots').execute()).toEqual([{ slots: 41 }]);
      await database.db.destroy();
    });

    it('leaves nothing of a transaction that fails, and repeats one the database asks to repeat', async () => {
      const database = await openDatabase(await newUrl());
      const attempt = async (failures: Error[]) => {
        let attempts = 0;
        await oneAtATime(database, 'vms', async (trx) => {
          await trx.insertInto('hosts').values(HOST).execute();
          attempts++;
          const failure = failures.shift();
          if (failure !== undefined) throw failure;
        });
        return attempts;
      };
      const deadlock = () => Object.assign(new Error('deadlock detected'), { code: '40P01' });
      await expect(attempt([new Error('other')])).rejects.toThrow('other');
      expect(await database.db.selectFrom('hosts').selectAll().execute()).toEqual([]);
      await expect(attempt([1, 2, 3, 4, 5, 6].map(deadlock))).rejects.toThrow('deadlock');
      expect(await attempt([deadlock(), Object.assign(new Error(), { code: '40001' })])).toBe(3);
      expect(await database.db.selectFrom('hosts').selectAll().execute()).toHaveLength(1);
      expect(isWorthRepeating(Object.assign(new Error('busy'), { errcode: 517 }))).toBe(true); // SQLITE_BUSY_SNAPSHOT
      expect(isWorthRepeating(Object.assign(new Error('full'), { errcode: 13 }))).toBe(false);
      expect(isWorthRepeating('40001')).toBe(false);
      await database.db.destroy();
    });

    it('refuses a catalog that a newer version has migrated', async () => {
      const url = await newUrl();
      const { db } = await openDatabase(url);
      await sql`insert into kysely_migration (name, timestamp) values ('9999-later', ${after(9e8)})`.execute(db);
      await db.destroy();
      await expect(openCatalog(url)).rejects.toThrow('newer version of Holdfast');
    });

    it('names no password when the URL is wrong or nobody answers', async () => {
      for (const url of ['postgres://u:s3cret@[broken', 'mysql://u:s3cret@h/d', 'postgres://u:s3cret@127.0.0.1:1/d']) {
        const error: unknown = await openCatalog(url).then(
          () => undefined,
          (reason: unknown) => reason,
        );
        expect(error).toBeInstanceOf(Error);
        expect(inspect(error, { depth: 10, showHidden: true })).not.toContain('s3cret');
      }
    });
  });

  describe('several processes', { timeout: 120_000 }, () => {
    it('open, migrate and write a new catalog at the same moment', async () => {
      const url = await newUrl();
      await using stack = new AsyncDisposableStack();
      const programs = Array.from({ length: 5 }, () => stack.use(startProgram('take-chains.ts', url, '12')));
      const ids = (await Promise.all(programs.map((program) => program.rest()))).flat();
      expect(new Set(ids).size).toBe(60);
      await using catalog = await openCatalog(url);
      const backups = await catalog.backups.list();
      expect(new Set(backups.map(({ id }) => id))).toEqual(new Set(ids));
      expect(backups.every(({ disks, state }) => disks.length === 2 && state === 'BackedUp')).toBe(true);
    });

    it('lose nothing that was acknowledged, and see nothing by halves, when a writer is killed', async () => {
      const url = await newUrl();
      const acknowledged: string[] = [];
      for (let round = 0; round < 4; round++) {
        await using writer = startProgram('take-chains.ts', url, '100000');
        for (let line = 0; line < 3 + 7 * round; line++) acknowledged.push(await writer.line());
        writer.kill();
        acknowledged.push(...(await writer.rest()));
      }
      const database = await openDatabase(url);
      await using catalog = await openCatalog(url);
      const backups = await catalog.backups.list({ all: true });
      const finished = backups.filter(({ state }) => state === 'BackedUp');
      expect(new Set(finished.map(({ id }) => id)).isSupersetOf(new Set(acknowledged))).toBe(true);
      expect(finished.length - acknowledged.length).toBeLessThanOrEqual(4); // one a round, its answer unread
      for (const { state, disks } of backups) expect(disks).toHaveLength(state === 'BackedUp' ? 2 : 0);
      for (const chain of await database.db.selectFrom('chains').selectAll().execute()) {
        const members = finished.filter(({ chainId }) => chainId === chain.id);
        expect(chain.size).toBe(members.length);
        const isEnded = members.some(({ endOfChain }) => endOfChain);
        expect(chain.state).toBe(isEnded ? 'ended' : 'open');
      }
      await database.db.destroy();
    });

    it('go on at once after a writer was killed between two statements of a transaction', async () => {
      const url = await newUrl();
      await using catalog = await openCatalog(url);
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 2 });
      await using holder = startProgram('hold-lock.ts', url);
      expect(await holder.line()).toBe('inside');
      expect(await catalog.hosts.find('kvm-1')).toMatchObject({ slots: 2 });
      holder.kill();
      await holder.rest();
      expect(await catalog.admissions.request(admissionRequest())).toEqual({ granted: true });
      expect(await catalog.hosts.find('kvm-1')).toMatchObject({ slots: 2 });
    });

    it('wait for a writer that takes its time', async () => {
      const url = await newUrl();
      await using catalog = await openCatalog(url);
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 2 });
      await using holder = startProgram('hold-lock.ts', url, '700');
      expect(await holder.line()).toBe('inside');
      expect(await catalog.admissions.request(admissionRequest())).toEqual({ granted: true });
      expect(await catalog.hosts.find('kvm-1')).toMatchObject({ slots: 99 });
      await holder.rest();
    });

    it('are never granted more than there is, when ten of them race', async () => {
      const url = await newUrl();
      await using folder = await tempDir();
      const witness = join(folder.path, 'witness');
      await using catalog = await openCatalog(url);
      const slots: Record<string, number> = { 'kvm-1': 2, 'kvm-2': 3, main: 2, offsite: 3 };
      for (const name of ['kvm-1', 'kvm-2']) await catalog.hosts.upsert({ name, slots: slots[name]! });
      for (const name of ['main', 'offsite']) {
        const location = { kind: 'directory', path: `/${name}` } as const;
        await catalog.repositories.add({ name, id: randomUUID(), location, slots: slots[name]! });
      }
      const vms = Array.from({ length: 6 }, () => randomUUID());
      await using stack = new AsyncDisposableStack();
      const programs = Array.from({ length: 10 }, () =>
        stack.use(startProgram('race-for-admission.ts', url, witness, '10', ...vms)),
      );
      await Promise.all(programs.map((program) => program.rest()));
      expect(await catalog.admissions.list()).toEqual([]);

      const lines = (await readFile(witness, 'utf8')).trimEnd().split('\n');
      expect(lines).toHaveLength(2 * 10 * 10);
      const running = new Map<string, WitnessLine>();
      let most = 0;
      for (const line of lines) {
        const step = JSON.parse(line) as WitnessLine;
        if (step.event === 'end') {
          running.delete(step.operationId);
          continue;
        }
        for (const other of running.values()) {
          expect(other.vmUuid).not.toBe(step.vmUuid);
          const isSameChain = other.chain.id === step.chain.id;
          expect(isSameChain && [other.chain.mode, step.chain.mode].includes('exclusive')).toBe(false);
        }
        running.set(step.operationId, step);
        for (const thing of ['host', 'repository'] as const) {
          const users = [...running.values()].filter((other) => other[thing] === step[thing]);
          expect(users.length).toBeLessThanOrEqual(slots[step[thing]]!);
        }
        most = Math.max(most, running.size);
      }
      expect(most).toBeGreaterThan(1);
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

const HOST = {
  name: 'kvm-1',
  slots: 1,
  libvirt_address: null,
  libvirt_version: null,
  qemu_version: null,
  last_seen_at: null,
};

interface WitnessLine {
  event: 'start' | 'end';
  operationId: string;
  vmUuid: string;
  chain: { id: string; mode: 'shared' | 'exclusive' };
  host: string;
  repository: string;
}
