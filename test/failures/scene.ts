import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import { runningBitmaps } from '../../activities/host/bitmaps.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import type { Catalog } from '../../catalog/contract.ts';
import type { Job } from '../../operations/jobs.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { sumsKey } from '../../repository/layout.ts';
import type { Backup } from '../../schemas/backup.ts';
import { manifest as manifestSchema, type Manifest } from '../../schemas/manifest.ts';
import { checkpointName } from '../../schemas/names.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { createGuest, startGuest, writePattern, type Guest } from '../support/guest.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { isRunning, signalProcess, until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 1024 * 1024;
/** Nothing compresses it, so that a copy takes its time. */
const DATA_BYTES = 64 * MIB;
/** Many tests share a chain; none of them is about its length. */
const ENDLESS = ['--chain-size', '0'];

/** One host with one VM and one installation, on which things go wrong. */
export interface Scene extends AsyncDisposable {
  readonly host: KvmHost;
  readonly guest: Guest;
  readonly holdfast: TestInstallation;
  readonly catalog: Catalog;
  readonly vm: string;
  qemuPid(): number;
  /** Stops QEMU, and its NBD server with it, as it stands. */
  stopQemu(): void;
  /** Kills the host worker and keeps its successors from work until the answer is called. */
  keepHostWorkerAway(): Promise<() => Promise<void>>;
  /** QEMU, libvirtd and the guest run. */
  ready(): Promise<void>;
  contQemu(): void;
  /** Takes a backup in a chain without end. */
  take(...flags: string[]): Promise<Backup>;
  /** Starts a backup that does not wait for its end; gives the job's id. */
  begin(...flags: string[]): Promise<string>;
  /** Starts a backup and holds it in mid-copy: some segments are stored, QEMU stands still. */
  beginAndHold(...flags: string[]): Promise<HeldBackup>;
  job(id: string): Promise<ShownJob>;
  /** Waits until the job is over; how it ended. */
  ended(id: string, options?: { timeoutMs?: number }): Promise<ShownJob>;
  /** Waits until the job's step or what it waits for matches. */
  isAt(id: string, step: RegExp): Promise<void>;
  /** Writes into the first disk where nothing lay before, a new place each time. */
  write(lengthBytes?: number): Promise<void>;
  /** SHA-256 of what each disk holds now, by target. */
  contents(): Promise<Record<string, string>>;
  /** The stored chain of the backup holds these contents, and is sound. */
  expectStored(backup: Backup, contents: Record<string, string>): Promise<void>;
  /** Nothing is left of what happened: on the VM, the host, in the repository and among the admissions. */
  expectNothingLeft(state?: 'running' | 'shutoff'): Promise<void>;
  /** Takes the next backup and looks at every byte of it. */
  expectNextRight(expected: { type: 'full' | 'incremental'; fullReasons?: string[] }): Promise<Backup>;
  manifest(backup: Backup): Promise<Manifest>;
  captures(): Promise<string[]>;
}

export interface HeldBackup {
  jobId: string;
  backupId: string;
  /** Segments stored of the first disk. */
  stored: number;
}

export type ShownJob = Job & { result: Backup | null; failure: { type: string; message: string } | null };

export async function startScene(options: { heartbeatSeconds?: number } = {}): Promise<Scene> {
  const vm = 'web-1';
  const stack = new AsyncDisposableStack();
  try {
    const dir = stack.use(await tempDir());
    const host = stack.use(await startKvmHost({ name: 'kvm-1', dir: join(dir.path, 'h') }));
    const images = join(dir.path, 'disks');
    const guest = await createGuest(host, {
      name: vm,
      dir: images,
      disks: [
        { target: 'vda', sizeBytes: 128 * MIB, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: 16 * MIB, format: 'qcow2', fs: 'none' },
      ],
    });
    const random = join(dir.path, 'random');
    await mkdir(images, { recursive: true });
    await writeFile(random, randomBytes(16 * MIB));
    for (const { path } of guest.disks) {
      const pieces = path === guest.disks[0]?.path ? DATA_BYTES / (16 * MIB) : 1;
      const writes = Array.from({ length: pieces }, (_, n) => ['-c', `write -q -s ${random} ${n * 16}M 16M`]).flat();
      await run('qemu-io', ['-f', 'qcow2', ...writes, path]);
    }
    const [holdfast] = await Promise.all([
      startInstallation({ host, dir: join(dir.path, 'i'), heartbeatSeconds: options.heartbeatSeconds ?? 4 }),
      startGuest(guest),
    ]);
    stack.use(holdfast);
    const catalog = stack.use(await openCatalog(`sqlite:${join(holdfast.dataDir, 'catalog.sqlite')}`));
    const scene = sceneOf({ host, guest, holdfast, catalog, vm });
    const all = stack.move();
    return {
      ...scene,
      async [Symbol.asyncDispose]() {
        try {
          scene.contQemu();
          if (isRunning(host.libvirtdPid())) signalProcess(host.libvirtdPid(), 'SIGCONT');
        } catch {
          // it does not run
        }
        await all.disposeAsync();
      },
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

type Parts = Pick<Scene, 'host' | 'guest' | 'holdfast' | 'catalog' | 'vm'>;

function sceneOf(parts: Parts): Omit<Scene, typeof Symbol.asyncDispose> {
  const { host, guest, holdfast, catalog, vm } = parts;
  const stateDir = join(holdfast.dataDir, 'hosts', host.name);
  const socketRoot = join('/run/holdfast', createHash('sha256').update(stateDir).digest('hex').slice(0, 12));
  let place = DATA_BYTES;
  let pattern = 1;

  const qemuPid = (): number => Number(readFileSync(join(host.dir, 'run', 'qemu', `${vm}.pid`), 'utf8'));
  const stopQemu = (): void => signalProcess(qemuPid(), 'SIGSTOP');
  const contQemu = (): void => signalProcess(qemuPid(), 'SIGCONT');
  const captures = (): Promise<string[]> => listed(join(stateDir, 'captures'));

  async function keepHostWorkerAway(): Promise<() => Promise<void>> {
    const lock = join(stateDir, 'worker.lock'); // a host has one worker: others wait for the process it names
    const stat = readFileSync('/proc/self/stat', 'utf8');
    const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
    await holdfast.kill('host');
    await writeFile(lock, `${process.pid} ${startTime}`);
    return () => rm(lock, { force: true });
  }

  async function ready(): Promise<void> {
    if (!isRunning(host.libvirtdPid())) await host.restartLibvirtd();
    signalProcess(host.libvirtdPid(), 'SIGCONT');
    if ((await guest.libvirt.state(guest.dom)).state === 'shutoff') await startGuest(guest);
    else contQemu();
  }

  const begin = async (...flags: string[]): Promise<string> =>
    (await holdfast.json<{ jobId: string }>('backup', 'take', vm, '--no-wait', ...ENDLESS, ...flags)).jobId;

  const take = (...flags: string[]): Promise<Backup> => holdfast.take(vm, ...ENDLESS, ...flags);

  const job = async (id: string): Promise<ShownJob> => await holdfast.json<ShownJob>('job', 'show', id);

  async function ended(id: string, { timeoutMs = 60_000 } = {}): Promise<ShownJob> {
    const handle = (await holdfast.client()).workflow.getHandle(id);
    await until(`job ${id} is over`, async () => (await handle.describe()).status.name !== 'RUNNING', {
      timeoutMs,
      everyMs: 100,
    });
    return await job(id);
  }

  async function isAt(id: string, step: RegExp): Promise<void> {
    const handle = (await holdfast.client()).workflow.getHandle(id);
    let last: unknown;
    await until(`job ${id} is at ${String(step)}; it was at ${JSON.stringify(last)}`, async () => {
      last = await handle.query('progress').catch(() => undefined);
      return step.test(JSON.stringify(last));
    });
  }

  async function beginAndHold(...flags: string[]): Promise<HeldBackup> {
    const before = new Set(await captures());
    const jobId = await begin(...flags);
    let held: HeldBackup | undefined;
    await until(
      'some segments are stored',
      async () => {
        const backupId = (await captures()).find((id) => !before.has(id));
        if (backupId === undefined) return false;
        const stored = storedSegments(join(stateDir, 'captures', backupId, 'vda.journal'));
        if (stored < 2) return false;
        stopQemu();
        held = { jobId, backupId, stored };
        return true;
      },
      { everyMs: 2 },
    );
    if (held === undefined) throw new Error('not held');
    const { stored } = held;
    await delay(200); // what was read is stored, too
    const draft = await readFile(join(stateDir, 'captures', held.backupId, 'vda.draft.json'), 'utf8');
    expect(JSON.parse(draft), 'the copy was over before it was held').toMatchObject({ copied: null });
    return {
      ...held,
      stored: Math.max(stored, storedSegments(join(stateDir, 'captures', held.backupId, 'vda.journal'))),
    };
  }

  async function write(lengthBytes = MIB): Promise<void> {
    await writePattern(guest, { device: 0, offsetBytes: place, lengthBytes, pattern });
    pattern = (pattern % 250) + 1;
    place += lengthBytes;
    if (place + MIB > 128 * MIB) place = DATA_BYTES;
  }

  /** QEMU keeps an image's tables in memory until it is told to write them. */
  async function flush(): Promise<void> {
    for (const device of guest.disks.keys()) {
      await guest.libvirt.monitorCommandHmp(
        guest.dom,
        `qemu-io -d /machine/peripheral/virtio-disk${device}/virtio-backend flush`,
      );
    }
  }

  async function contents(): Promise<Record<string, string>> {
    if ((await guest.libvirt.state(guest.dom)).state === 'running') await flush();
    const sums = await Promise.all(
      guest.disks.map(async ({ target, path }) => [target, await sha256OfImage(path, 'qcow2', { forceShare: true })]),
    );
    return Object.fromEntries(sums) as Record<string, string>;
  }

  const manifest = async ({ id }: Backup): Promise<Manifest> =>
    manifestSchema.parse(JSON.parse(await readFile(holdfast.blob(`${guest.uuid}/backups/${id}.json`), 'utf8')));

  async function expectStored(backup: Backup, expected: Record<string, string>): Promise<void> {
    expect(backup.state).toBe('BackedUp');
    expect(backup.disks.map(({ target }) => target)).toEqual(Object.keys(expected));
    const found = await Promise.all(
      backup.disks.map(async ({ target, file }) => {
        await qemuImgCheck(holdfast.blob(file));
        return [target, await sha256OfImage(holdfast.blob(file), 'qcow2')];
      }),
    );
    expect(Object.fromEntries(found), `the bytes of backup ${backup.id}`).toEqual(expected);
  }

  async function expectNothingLeft(state: 'running' | 'shutoff' = 'running'): Promise<void> {
    const known = await catalog.checkpoints.list(guest.uuid);
    await expectVmClean(host, vm, {
      activeImages: Object.fromEntries(guest.disks.map(({ target, path }) => [target, path])),
      checkpoints: known.map(({ backupId }) => checkpointName(backupId)),
      state,
      emptyDirs: [],
    });
    expect(await bitmaps(), 'bitmaps of the images').toEqual(
      state === 'running' ? known.map(({ backupId }) => checkpointName(backupId)) : [],
    );
    expect(known.filter(({ state: one }) => one !== 'current' && one !== 'kept')).toEqual([]);
    expect({
      scratch: await listed(join(stateDir, 'scratch')),
      sockets: await listed(socketRoot),
      captures: await captures(),
    }).toEqual({ scratch: [], sockets: [], captures: [] });
    expect(await catalog.admissions.list()).toEqual([]);
    expect(await catalog.backups.unfinished()).toEqual([]);
    expect(await strayBlobs(), 'files in the repository that no manifest names').toEqual([]);
    const stored = await catalog.backups.list({ states: ['BackedUp'] });
    const published = await listed(join(holdfast.repositoryDir, guest.uuid, 'backups'));
    expect(stored.map(({ id }) => `${id}.json`).toSorted(), 'what is listed is what is stored').toEqual(published);
    expect((await catalog.vms.find(guest.uuid))?.state).toBe('Idle');
  }

  async function bitmaps(): Promise<string[]> {
    if ((await guest.libvirt.state(guest.dom)).state !== 'running') return [];
    const { disks } = parseDomainXml(await guest.libvirt.domainXml(guest.dom));
    const found = await runningBitmaps(guest.libvirt, guest.dom, disks, { signal: AbortSignal.timeout(10_000) });
    return [...new Set([...found.values()].flat().map(({ name }) => name))].toSorted();
  }

  async function strayBlobs(): Promise<string[]> {
    const entries = await readdir(holdfast.repositoryDir, { recursive: true, withFileTypes: true });
    const files = entries
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name).slice(holdfast.repositoryDir.length + 1));
    const named = new Set(['repository.json']);
    for (const file of files.filter((name) => /\/backups\/[^/]+\.json$/.test(name))) {
      named.add(file);
      const { disks } = manifestSchema.parse(JSON.parse(await readFile(holdfast.blob(file), 'utf8')));
      for (const disk of disks) named.add(disk.file).add(sumsKey(disk.file));
    }
    expect(
      [...named].filter((file) => !files.includes(file)),
      'files that manifests name',
    ).toEqual([]);
    return files.filter((file) => !named.has(file));
  }

  async function expectNextRight(expected: { type: 'full' | 'incremental'; fullReasons?: string[] }): Promise<Backup> {
    const now = await contents();
    const backup = await take();
    const reasons = backup.disks.map(({ fullReason }) => fullReason);
    expect({ type: backup.type, reasons }).toEqual({
      type: expected.type,
      reasons:
        expected.type === 'full'
          ? reasons.map((reason) => expect.toBeOneOf(expected.fullReasons ?? [reason]) as unknown)
          : [null, null],
    });
    await expectStored(backup, now);
    await expectNothingLeft();
    return backup;
  }

  return {
    ...parts,
    qemuPid,
    stopQemu,
    contQemu,
    keepHostWorkerAway,
    ready,
    take,
    begin,
    beginAndHold,
    job,
    ended,
    isAt,
    write,
    contents,
    expectStored,
    expectNothingLeft,
    expectNextRight,
    manifest,
    captures,
  };
}

/** Counts the records of stored segments in a copy's journal. */
function storedSegments(path: string): number {
  let journal: Buffer;
  try {
    journal = readFileSync(path);
  } catch {
    return 0;
  }
  const STORED = 2;
  let count = 0;
  for (let at = 0; at + 5 <= journal.length; at += 5 + journal.readUInt32LE(at + 1) + 4) {
    if (journal.readUInt8(at) === STORED) count += 1;
  }
  return count;
}

async function listed(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  return names.toSorted();
}
