import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDeleteBackup } from '../../activities/control/delete-backup.ts';
import type { ControlDependencies } from '../../activities/control/dependencies.ts';
import { judgeCopies } from '../../activities/control/judge-retention.ts';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { retentionRules } from '../../schemas/retention.ts';
import { disk, takeChain } from '../catalog/records.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

const RUN = { workflowId: 'w', runId: 'r' };
const OPERATION = '00000000-0000-4000-8000-00000000000a';
const COPIED_AT = '2026-11-21T13:00:00.000Z';
const NOW = new Date('2026-11-21T14:00:00.000Z');

/** Real catalog; a chain of three in `main`, each with a copy in `off-site`. */
describe('copies by the rules of backups', () => {
  let dir: TempDir;
  let catalog: Catalog;
  let ids: string[];
  let vmUuid: string;
  beforeEach(async () => {
    dir = await tempDir('hf-copies');
    catalog = await openCatalog(`sqlite:${dir.path}/catalog.sqlite`);
    for (const name of ['main', 'off-site']) {
      const location = { kind: 'directory' as const, path: `/mnt/${name}` };
      await catalog.repositories.add({ name, id: crypto.randomUUID(), location, slots: 4 });
    }
    await catalog.hosts.upsert({ name: 'kvm-1', slots: 4, libvirtAddress: null });
    ids = await takeChain(catalog, 3);
    vmUuid = (await catalog.backups.find(ids[0]!))!.backup.vm.uuid;
    for (const [index, backupId] of ids.entries()) {
      const parentId = ids[index - 1] ?? null;
      const type = parentId === null ? ('full' as const) : ('incremental' as const);
      const note = { state: 'Copied' as const, type, parentId, disks: [disk()], copiedAt: COPIED_AT };
      await catalog.copies.note({ backupId, repository: 'off-site', ...note });
    }
  });
  afterEach(async () => {
    await catalog[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  const steps = () => createDeleteBackup({ catalog } as unknown as ControlDependencies);
  const planOf = async (id: string, force = false) =>
    (await steps().planDelete(OPERATION, id, force, RUN, 'off-site')).plan;
  const letters = (of: string[]): string => of.map((id) => 'abc'[ids.indexOf(id)]).join('');
  const stateOf = async (id: string) => (await catalog.copies.find(id, 'off-site'))?.state;
  /** As the workflow does it. */
  async function remove(id: string): Promise<string> {
    const plan = await planOf(id);
    if (plan.hide) await steps().hideBackup(plan);
    for (const one of plan.expunge) {
      await steps().beginExpunge(one.id, plan);
      await steps().backupExpunged(one.id, plan);
    }
    return letters(plan.expunge.map((one) => one.id));
  }

  it('hides one that others are built on, and takes hidden ones along leaf to root when the last of these goes', async () => {
    const [a, b, c] = ids as [string, string, string];
    expect([await remove(a), await remove(b)]).toEqual(['', '']);
    expect([await stateOf(a), await stateOf(b), await stateOf(c)]).toEqual(['Removed', 'Removed', 'Copied']);
    expect(await remove(c)).toBe('cba');
    expect([await stateOf(a), await stateOf(b), await stateOf(c)]).toEqual(['Expunged', 'Expunged', 'Expunged']);
    expect((await catalog.backups.find(c))?.backup.state).toBe('BackedUp');
  });

  it('takes a whole chain by force, leaf first', async () => {
    expect(letters((await planOf(ids[1]!, true)).expunge.map(({ id }) => id))).toBe('cba');
  });

  it('keeps copies whose originals are deleted, and deletes them by the same rules', async () => {
    for (const id of ids) await catalog.backups.setState(id, 'Expunged');
    await expect(steps().planDelete(OPERATION, ids[2]!, false, RUN)).rejects.toMatchObject({
      message: expect.stringContaining('copies are in off-site') as string,
    });
    expect(await remove(ids[2]!)).toBe('c');
  });

  it('does not find a copy that is not there', async () => {
    await remove(ids[2]!);
    await expect(planOf(ids[2]!)).rejects.toMatchObject({ type: 'BackupNotFound' });
  });

  describe('retention', () => {
    const judged = async (last: number) => {
      const rules = retentionRules.parse({ last });
      const outcomes = await judgeCopies(catalog, vmUuid, 'off-site', rules, NOW);
      return Object.fromEntries(outcomes.map(({ id, outcome }) => [letters([id]), outcome]));
    };

    it('keeps as many as its own rules say, with what they are built on', async () => {
      expect(await judged(1)).toEqual({ a: 'hidden', b: 'hidden', c: 'kept' });
      expect(await judged(3)).toEqual({ a: 'kept', b: 'kept', c: 'kept' });
    });

    it('does not ask what became of the originals, and spares what is pinned', async () => {
      for (const id of ids) await catalog.backups.setPinned(id, id === ids[0]);
      for (const id of ids) await catalog.backups.setState(id, 'Expunged');
      expect(await judged(1)).toEqual({ a: 'kept', b: 'hidden', c: 'kept' });
    });

    it('lets nothing go that the repository keeps locked', async () => {
      const settings = { encryption: null, identity: null, owner: null };
      await catalog.repositories.changeSettings('off-site', {
        ...settings,
        immutability: { mode: 'compliance', days: 30 },
      });
      await catalog.copies.setState(ids[2]!, 'off-site', 'Expunged');
      expect(await judged(1)).toEqual({ a: 'hidden', b: 'kept' });
      await expect(planOf(ids[1]!)).rejects.toMatchObject({ type: 'BackupLocked' });
    });
  });
});
