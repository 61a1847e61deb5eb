import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { admissionRequest, sighting, T0 } from './records.ts';

/** How every catalog admits operations. */
export function admissionsSuite(openNew: () => Promise<Catalog>): void {
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
}
