import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { offering } from '../../schemas/catalog.ts';
import { T0 } from './records.ts';

/** What every catalog keeps of hosts, repositories, offerings and events, and of itself. */
export function installationSuite(newUrl: () => Promise<string>): void {
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
}
