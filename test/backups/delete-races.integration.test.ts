import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rename, rmdir, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import type { JudgedRetention } from '../../activities/control/judge-retention.ts';
import { sumsKey, validationKey } from '../../repository/layout.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { OperationProgress } from '../../schemas/plan.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import type { FleetRetention, VmRetention } from '../../workflows/apply-retention.ts';
import type { Guest } from '../support/guest.ts';
import { signalProcess, until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  manifestOf,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const VM = 'races';

describe('deletes and retention on a real VM', () => {
  let bed: TestBed;
  let guest: Guest;
  let catalog: Catalog;
  let pattern = 1;
  const vda = new PatternedDisk(0, 32 * MiB);
  const states = new Map<string, PatternedDisk>();
  beforeAll(async () => {
    bed = await startTestBed('kvm-races');
    guest = await bed.guest({ name: VM, disks: [{ target: 'vda', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'none' }] });
    await bed.host.libvirt.create(guest.dom);
    catalog = await openCatalog(`sqlite:${join(bed.holdfast.dataDir, 'catalog.sqlite')}`);
  });
  afterAll(async () => {
    await catalog[Symbol.asyncDispose]();
    await bed[Symbol.asyncDispose]();
  });

  /** Writes one MiB and takes a backup, whose bytes are known from then on. */
  async function take(request: Parameters<TestBed['take']>[1] = {}): Promise<Backup> {
    await write();
    const backup = await bed.take(VM, { chainSize: 0, ...request });
    states.set(backup.id, vda.as(0));
    return backup;
  }
  async function write(): Promise<void> {
    await vda.write(guest, (pattern % 32) * MiB, MiB, pattern);
    pattern += 1;
  }
  /** A new chain of so many. */
  async function chainOf(length: number): Promise<Backup[]> {
    const taken = [await take({ full: true })];
    while (taken.length < length) taken.push(await take());
    expect(taken.map(({ type }) => type)).toEqual(['full', ...Array<string>(length - 1).fill('incremental')]);
    return taken;
  }
  const start = async (workflow: string, request: object): Promise<WorkflowHandle> =>
    await (
      await bed.holdfast.client()
    ).workflow.start(workflow, {
      taskQueue: CONTROL_QUEUE,
      workflowId: `${workflow}-${randomUUID()}`,
      args: [request],
    });
  const startDelete = (backup: Backup, request: object = {}) =>
    start('deleteBackup', { backupId: backup.id, ...request });
  const remove = async (backup: Backup, request: object = {}): Promise<DeletePlan> =>
    await resultOf(await startDelete(backup, request));
  const stateOf = async ({ id }: Backup) => (await catalog.backups.find(id))?.backup.state;
  const statesOf = (backups: Backup[]) => Promise.all(backups.map(stateOf));
  const filesOf = (backup: Backup): string[] => [
    ...backup.disks.flatMap(({ file }) => [file, sumsKey(file)]),
    `${guest.uuid}/backups/${backup.id}.json`,
  ];
  const presentFiles = (backups: Backup[]): string[] =>
    backups.flatMap(filesOf).filter((file) => existsSync(bed.holdfast.blob(file)));
  const isAt = async (handle: WorkflowHandle, what: RegExp): Promise<void> => {
    await until(`${handle.workflowId} is at ${String(what)}`, async () => {
      const { step, waitingFor } = await handle.query<OperationProgress>('progress');
      return what.test(waitingFor ?? step);
    });
  };
  /** The newest of what is listed as stored hold what they held, and no other file is there than of what is known. */
  async function expectAllStored(): Promise<void> {
    const listed = await bed.holdfast.json<Backup[]>('backup', 'ls', VM, '--all');
    for (const backup of listed.filter(({ state }) => state === 'BackedUp').slice(0, 3)) {
      await expectStored(bed.holdfast, backup, { vda: states.get(backup.id) ?? vda });
    }
    const kept = listed.filter(({ state }) => state === 'BackedUp' || state === 'Removed');
    const { stdout } = await run('find', [bed.holdfast.repositoryDir, '-type', 'f', '-printf', '%P\n']);
    const found = stdout
      .toString()
      .split('\n')
      .filter((name) => name !== '' && name !== 'repository.json');
    expect(found.toSorted()).toEqual(kept.flatMap(filesOf).toSorted());
    expect(await catalog.admissions.list()).toEqual([]);
  }
  /** The VM runs as before, with the checkpoints that the catalog knows. */
  async function expectClean(): Promise<void> {
    const known = await catalog.checkpoints.list(guest.uuid);
    const checkpoints = known.map(({ backupId }) => checkpointName(backupId));
    await expectOnlyCheckpointOf(guest, null, { checkpoints });
  }
  const startBlocker = async (): Promise<WorkflowHandle> =>
    await (
      await bed.holdfast.client()
    ).workflow.start('takeBackup', {
      taskQueue: 'nobody-serves-this',
      workflowId: `blocker-${randomUUID()}`,
      args: [{ vm: VM }],
    });

  describe('several at once', () => {
    it('two deletes of the same backup: one deletes, the other is told', async () => {
      const [full, newest] = await chainOf(2);
      if (full === undefined || newest === undefined) return;
      const runs = [await startDelete(newest), await startDelete(newest)];
      const ends = await Promise.allSettled(runs.map((handle) => resultOf<DeletePlan>(handle)));
      expect(ends.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
      expect(ends.find(({ status }) => status === 'rejected')).toMatchObject({
        reason: { message: `BackupNotFound: backup ${newest.id} is deleted already` },
      });
      expect(await statesOf([full, newest])).toEqual(['BackedUp', 'Expunged']);
      await expectAllStored();
    });

    it('deletes of all backups of a chain, in whatever order they are admitted', async () => {
      const chain = await chainOf(4);
      const runs = await Promise.all([1, 3, 0, 2].map((index) => startDelete(chain[index] as Backup)));
      for (const handle of runs) await resultOf(handle);
      expect(await statesOf(chain)).toEqual(chain.map(() => 'Expunged'));
      expect(presentFiles(chain)).toEqual([]);
      await expectAllStored();
    });

    it('waits for a backup of the VM, says so, and then does what is right by then', async () => {
      const [full, newest] = await chainOf(2);
      if (full === undefined || newest === undefined) return;
      await write();
      const qemu = Number(readFileSync(join(bed.host.dir, 'run', 'qemu', `${VM}.pid`), 'utf8'));
      signalProcess(qemu, 'SIGSTOP');
      const taking = await start('takeBackup', { vm: VM, quiesce: 'none', chainSize: 0 });
      let deleting: WorkflowHandle;
      try {
        await until('the backup is admitted', async () =>
          (await catalog.admissions.list()).some(
            ({ operation, state }) => operation === 'takeBackup' && state === 'granted',
          ),
        );
        deleting = await startDelete(newest);
        await isAt(deleting, /races/);
        expect(await stateOf(newest)).toBe('BackedUp');
      } finally {
        signalProcess(qemu, 'SIGCONT');
      }
      const taken = await resultOf<Backup>(taking);
      states.set(taken.id, vda.as(0));
      expect(taken.parentId).toBe(newest.id);
      expect(await resultOf<DeletePlan>(deleting)).toMatchObject({
        hide: true,
        neededBy: [taken.id],
        endsChain: false,
      });
      expect(await statesOf([full, newest, taken])).toEqual(['BackedUp', 'Removed', 'BackedUp']);
      await expectClean();
      await expectAllStored();
      const gone = await remove(taken);
      expect(gone.expunge.map(({ id }) => id)).toEqual([taken.id, newest.id]);
      await expectAllStored();
    });

    it.each(['restoreVm', 'validateBackup'])(
      'waits for a %s from the chain; a lease of an ended run holds up nobody',
      async (operation) => {
        const [full, newest] = await chainOf(2);
        if (full === undefined || newest === undefined) return;
        const blocker = await startBlocker();
        await catalog.admissions.request({
          operationId: randomUUID(),
          operation,
          workflowId: blocker.workflowId,
          runId: (await blocker.describe()).runId,
          vmUuid: null,
          chain: { id: full.chainId ?? '', mode: 'shared' },
          host: null,
          repository: 'main',
          tenant: 'default',
          priority: 0,
        });
        const deleting = await startDelete(newest);
        await isAt(deleting, new RegExp(operation));
        expect(await stateOf(newest)).toBe('BackedUp');
        await blocker.terminate('over');
        await resultOf(deleting);
        expect(await statesOf([full, newest])).toEqual(['BackedUp', 'Expunged']);
        await expectAllStored();
      },
    );
  });

  describe('what cannot be removed', () => {
    it('stops the sweep there and stays in sight; a repeat ends clean', async () => {
      const [full, middle, newest] = await chainOf(3);
      if (full === undefined || middle === undefined || newest === undefined) return;
      await remove(full);
      await remove(middle);
      const path = bed.holdfast.blob(middle.disks[0]?.file ?? '');
      await rename(path, `${path}.away`);
      await mkdir(path); // no unlink removes a folder
      await expect(remove(newest)).rejects.toThrow(/cannot write: EISDIR/);
      expect(await statesOf([full, middle, newest])).toEqual(['Removed', 'Error', 'Expunged']);
      const listed = await bed.holdfast.json<Backup[]>('backup', 'ls', VM);
      expect(listed.find(({ id }) => id === middle.id)?.state).toBe('Error');
      expect(presentFiles([full, newest])).toEqual(filesOf(full));
      await rmdir(path);
      expect((await remove(middle)).expunge.map(({ id }) => id)).toEqual([middle.id, full.id]);
      await run('rm', [`${path}.away`]).catch(() => undefined);
      expect(await statesOf([full, middle, newest])).toEqual(['Expunged', 'Expunged', 'Expunged']);
      await expectAllStored();
    });

    it('leaves a backup as it is in a repository that takes no writes', async () => {
      const [only] = await chainOf(1);
      if (only === undefined) return;
      const { repositoryDir } = bed.holdfast;
      await run('mount', ['--bind', repositoryDir, repositoryDir]);
      try {
        await run('mount', ['-o', 'remount,bind,ro', repositoryDir]);
        await expect(remove(only)).rejects.toThrow('RepositoryReadOnly');
      } finally {
        await run('umount', [repositoryDir]);
      }
      expect(await stateOf(only)).toBe('BackedUp');
      await expectAllStored();
      await remove(only);
      await expectAllStored();
    });

    it('is a backup that another is built on of which only the repository knows', async () => {
      const [full, newest] = await chainOf(2);
      if (full === undefined || newest === undefined) return;
      const known = await manifestOf(bed.holdfast, newest);
      const stranger = randomUUID();
      const path = bed.holdfast.blob(`${guest.uuid}/backups/${stranger}.json`);
      const disks = known.disks.map((disk) => ({
        ...disk,
        backingFile: disk.file,
        file: `${guest.uuid}/disk-0/incr-20991231-000000.qcow2`,
      }));
      await writeFile(path, JSON.stringify({ ...known, id: stranger, parentId: newest.id, disks }));
      await expect(remove(newest)).rejects.toThrow(new RegExp(`BackupNotDeletable: .* needed by backup ${stranger}`));
      expect(await stateOf(newest)).toBe('BackedUp');
      await run('rm', [path]);
      await remove(newest);
      await expectAllStored();
    });

    it('is a pinned backup, until it is unpinned', async () => {
      const [full, newest] = await chainOf(2);
      if (full === undefined || newest === undefined) return;
      await bed.holdfast.json('backup', 'pin', newest.id, '--note', 'before the upgrade');
      expect(await bed.holdfast.json('backup', 'show', newest.id)).toMatchObject({
        pinned: true,
        pinNote: 'before the upgrade',
      });
      await expect(remove(newest)).rejects.toThrow(/BackupNotDeletable: .* is pinned; unpin it first/);
      await expect(remove(full, { force: true })).rejects.toThrow(/BackupNotDeletable: .* is pinned/);
      await bed.holdfast.json('backup', 'unpin', newest.id);
      const whole = await remove(full, { force: true });
      expect(whole.expunge.map(({ id }) => id)).toEqual([newest.id, full.id]);
      expect(whole.freedBytes).toBe(full.storedBytes + newest.storedBytes);
      await expectAllStored();
    });
  });

  describe('in mid-sweep', () => {
    /** Deletes the newest of a chain of hidden ones while the host's worker stands still. */
    async function held(): Promise<{ chain: Backup[]; deleting: WorkflowHandle; goOn: () => void }> {
      const chain = await chainOf(3);
      const [full, middle, newest] = chain as [Backup, Backup, Backup];
      await remove(full);
      await remove(middle);
      const png = bed.holdfast.blob(validationKey(guest.uuid, newest.id));
      await mkdir(dirname(png), { recursive: true });
      await writeFile(png, 'a screenshot');
      const worker = bed.holdfast.processes()['host'] ?? 0;
      const deleting = await startDelete(newest);
      await isAt(deleting, /removing backup/);
      signalProcess(worker, 'SIGSTOP');
      return { chain, deleting, goOn: () => signalProcess(worker, 'SIGCONT') };
    }

    it('ends clean though the control worker is killed', async () => {
      const { chain, deleting, goOn } = await held();
      await bed.holdfast.kill('control');
      goOn();
      await bed.holdfast.isBack('control');
      await resultOf(deleting);
      expect(await statesOf(chain)).toEqual(chain.map(() => 'Expunged'));
      await expectAllStored();
    });

    it('ends clean though the host worker is killed', async () => {
      const { chain, deleting } = await held();
      await bed.holdfast.kill('host');
      await bed.holdfast.isBack('host');
      await resultOf(deleting);
      expect(await statesOf(chain)).toEqual(chain.map(() => 'Expunged'));
      await expectAllStored();
    });

    it('lists nothing that cannot be restored though the run is ended by force; a repeat ends clean', async () => {
      const { chain, deleting, goOn } = await held();
      await deleting.terminate('by hand');
      goOn();
      const ids = new Set(chain.map(({ id }) => id));
      const listed = await bed.holdfast.json<Backup[]>('backup', 'ls', VM);
      expect(listed.filter(({ id }) => ids.has(id))).toEqual([]);
      const all = await bed.holdfast.json<Backup[]>('backup', 'ls', VM, '--all');
      const left = all.filter(({ id, state }) => ids.has(id) && state !== 'Expunged');
      for (const { state } of left) expect(state).toBe('Removed');
      const [last] = left;
      if (last !== undefined) await remove(last);
      expect(await statesOf(chain)).toEqual(chain.map(() => 'Expunged'));
      await expectAllStored();
    });
  });

  describe('retention', () => {
    const followUp = async (): Promise<void> => {
      const client = await bed.holdfast.client();
      await until('retention has been applied', async () => {
        const runs = client.workflow.list({ query: 'WorkflowType = "applyRetention"' });
        for await (const { status } of runs) if (status.name === 'RUNNING') return false;
        return true;
      });
    };
    const outcomes = (backups: JudgedRetention[], of: Backup[]) =>
      of.map(({ id }) => backups.find((one) => one.id === id)?.outcome ?? 'gone');

    it('shows what rules would keep, and why, and touches nothing', async () => {
      await bed.holdfast.json('offering', 'create', 'shows', '--keep-last', '2');
      const chain = await chainOf(3);
      const old = await take({ isolated: true });
      const preview = await bed.holdfast.json<{ backups: JudgedRetention[]; freedBytes: number }>(
        'retention',
        'preview',
        VM,
        '--keep-last',
        '1',
        '--keep-timezone',
        'Europe/Berlin',
      );
      const [full, middle, newest] = chain as [Backup, Backup, Backup];
      expect(outcomes(preview.backups, [full, middle, newest, old])).toEqual(['hidden', 'hidden', 'kept', 'kept']);
      const why = Object.fromEntries(preview.backups.map(({ id, keptBy }) => [id, keptBy]));
      expect(why[old.id]).toEqual(['last', 'newest good one']);
      expect(why[newest.id]).toEqual(['the next is built on it']);
      expect(await statesOf([...chain, old])).toEqual(['BackedUp', 'BackedUp', 'BackedUp', 'BackedUp']);
      const { stdout } = await bed.holdfast.cli('retention', 'preview', VM, '--offering', 'shows');
      expect(stdout).toMatch(/keeps 2 last/);
      expect(await bed.holdfast.cli('retention', 'preview', VM, '--json')).toMatchObject({
        exitCode: 1,
        stderr: expect.stringContaining('NoRetention') as string,
      });
      await remove(old);
      await remove(full, { force: true });
      await expectAllStored();
    });

    it('is applied after each backup: hides what living ones need, and takes a chain when its last goes', async () => {
      await bed.holdfast.json(
        'offering',
        'create',
        'two',
        '--keep-last',
        '2',
        '--chain-size',
        '3',
        '--quiesce',
        'none',
      );
      await bed.holdfast.json('offering', 'assign', 'two', VM);
      const taken: Backup[] = [];
      const takeNext = async () => {
        await write();
        taken.push(await bed.take(VM));
        states.set(taken.at(-1)?.id ?? '', vda.as(0));
        await followUp();
      };
      for (let number = 1; number <= 4; number += 1) await takeNext();
      expect(taken.map(({ type }) => type)).toEqual(['full', 'incremental', 'incremental', 'full']);
      expect(await statesOf(taken)).toEqual(['Removed', 'Removed', 'BackedUp', 'BackedUp']);
      await expectAllStored();
      await takeNext();
      expect(await statesOf(taken)).toEqual(['Expunged', 'Expunged', 'Expunged', 'BackedUp', 'BackedUp']);
      await expectAllStored();
      await bed.holdfast.json('backup', 'pin', taken[3]?.id ?? '');
      await takeNext();
      await takeNext();
      expect((await statesOf(taken)).slice(3)).toEqual(['BackedUp', 'Removed', 'BackedUp', 'BackedUp']);
      await expectClean();
      await expectAllStored();
    });

    it('by hand: a dry run tells, the same run without it does that', async () => {
      await bed.holdfast.json(
        'backup',
        'unpin',
        (await catalog.backups.records({ vm: VM })).find(({ pinned }) => pinned)?.backup.id ?? '',
      );
      const told = await bed.holdfast.json<VmRetention>('retention', 'apply', VM, '--dry-run');
      const listed = await bed.holdfast.json<Backup[]>('backup', 'ls', VM, '--all');
      expect(told.removed.length).toBeGreaterThan(0);
      const done = await bed.holdfast.json<VmRetention>('retention', 'apply', VM);
      expect({ ...done, dryRun: true }).toEqual(told);
      expect(await bed.holdfast.json('backup', 'ls', VM, '--all')).not.toEqual(listed);
      await expectAllStored();
      expect(await bed.holdfast.json<VmRetention>('retention', 'apply', VM)).toMatchObject({
        removed: [],
        keptCount: 2,
      });
    });

    it('of all VMs: what fails of one is noted, the others go on', async () => {
      const other = await bed.guest({
        name: 'other',
        disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' }],
      });
      await bed.holdfast.json('vm', 'ls');
      const taken: Backup[] = [];
      for (let number = 1; number <= 3; number += 1) taken.push(await bed.take('other', { full: true }));
      const files = taken.flatMap(({ disks }) => disks.map(({ file }) => file));
      expect(new Set(files).size, 'backups of a stopped VM within one second').toBe(3);
      const [oldest] = taken as [Backup];
      await bed.holdfast.json('offering', 'assign', 'two', 'other');
      const path = bed.holdfast.blob(oldest.disks[0]?.file ?? '');
      await rename(path, `${path}.away`);
      await mkdir(path);
      await bed.holdfast.json('offering', 'update', 'two', '--keep-last', '1');
      const { exitCode, stdout } = await bed.holdfast.cli('retention', 'apply', '--json');
      const fleet = JSON.parse(stdout) as FleetRetention;
      expect(exitCode).toBe(1);
      expect(fleet).toMatchObject({ vms: 2, problemCount: 1, problems: [{ vm: 'other' }] });
      expect(fleet.removed).toBeGreaterThan(0);
      expect(await stateOf(oldest)).toBe('Error');
      expect((await catalog.events.list({ vmUuid: other.uuid })).map(({ kind }) => kind)).toContain(
        'retention-stopped',
      );
      await rmdir(path);
      await rename(`${path}.away`, path);
      expect(await bed.holdfast.json<FleetRetention>('retention', 'apply')).toMatchObject({
        vms: 2,
        kept: 2,
        problemCount: 0,
      });
      expect(await statesOf(taken)).toEqual(['Expunged', 'Expunged', 'BackedUp']);
      expect(JSON.parse(await readFile(bed.holdfast.blob('repository.json'), 'utf8'))).toHaveProperty('id');
    });
  });
});
