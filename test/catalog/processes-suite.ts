import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { tempDir } from '../support/temp.ts';
import { startProgram } from './program.ts';
import { admissionRequest } from './records.ts';

/** What every catalog is to several processes that use it at once. */
export function processesSuite(newUrl: () => Promise<string>): void {
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

    it('change repositories one after the other, and let others read and write meanwhile', async () => {
      const url = await newUrl();
      await using catalog = await openCatalog(url);
      await using folder = await tempDir();
      const witness = join(folder.path, 'witness');
      await writeFile(witness, '0');
      await using stack = new AsyncDisposableStack();
      const programs = Array.from({ length: 4 }, () => stack.use(startProgram('count-alone.ts', url, witness, '5')));
      await Promise.all(programs.map((program) => program.rest()));
      expect(await readFile(witness, 'utf8')).toBe('20');
      await using holder = startProgram('count-alone.ts', url, witness, '1', 'stay');
      expect(await holder.line()).toBe('inside');
      await catalog.hosts.upsert({ name: 'kvm-1', slots: 2 });
      holder.kill();
      expect(await catalog.repositories.alone(() => Promise.resolve('next'))).toBe('next');
      await expect(catalog.repositories.alone(() => Promise.reject(new Error('of the change')))).rejects.toThrow(
        'of the',
      );
      expect(await catalog.repositories.alone(() => Promise.resolve('next'))).toBe('next');
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
}

interface WitnessLine {
  event: 'start' | 'end';
  operationId: string;
  vmUuid: string;
  chain: { id: string; mode: 'shared' | 'exclusive' };
  host: string;
  repository: string;
}
