import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { WorkflowHandle } from '@temporalio/client';
import { describeFailure } from '../../operations/describe-failure.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import { manifest as manifestSchema, type Manifest } from '../../schemas/manifest.ts';
import { checkpointName } from '../../schemas/names.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import type { RestoreVmRequest, TakeBackupRequest } from '../../schemas/requests.ts';
import { expectVmClean, type ExpectedVm } from './clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from './disk-content.ts';
import { createGuest, writePattern, type Guest, type GuestOptions } from './guest.ts';
import { startInstallation, type InstallationOptions, type TestInstallation } from './installation.ts';
import { startKvmHost, type KvmHost } from './kvm-host.ts';
import { tempDir } from './temp.ts';

export const MiB = 1024 * 1024;

/** One private host with one installation: what a file of tests shares. */
export interface TestBed extends AsyncDisposable {
  readonly dir: string;
  readonly host: KvmHost;
  readonly holdfast: TestInstallation;
  /** Defines a VM; its disks lie in a folder of its own. */
  guest(options: Omit<GuestOptions, 'dir'>): Promise<Guest>;
  /** Starts a workflow by its name, as from the Temporal UI. */
  start(
    workflow: 'takeBackup' | 'restoreVm' | 'restoreDisk' | 'normalizeVm',
    request: unknown,
  ): Promise<WorkflowHandle>;
  /** Without quiescing, unless asked. Throws `<type>: <message>` when it fails. */
  take(vm: string, request?: Omit<TakeBackupRequest, 'vm'>): Promise<Backup>;
  restore(backupId: string, request?: Omit<RestoreVmRequest, 'backupId'>): Promise<RestoredVm>;
}

export async function startTestBed(
  name: string,
  options: Partial<Omit<InstallationOptions, 'host' | 'dir'>> = {},
): Promise<TestBed> {
  const dir = await tempDir();
  const host = await startKvmHost({ name, dir: join(dir.path, 'h') });
  const holdfast = await startInstallation({ host, dir: join(dir.path, 'i'), ...options });
  const start: TestBed['start'] = async (workflow, request) => {
    const client = await holdfast.client();
    return await client.workflow.start(workflow, {
      taskQueue: CONTROL_QUEUE,
      workflowId: `${workflow}-${randomUUID()}`,
      args: [request],
    });
  };
  return {
    dir: dir.path,
    host,
    holdfast,
    start,
    take: async (vm, request) => await resultOf(await start('takeBackup', { vm, quiesce: 'none', ...request })),
    restore: async (backupId, request) => await resultOf(await start('restoreVm', { backupId, ...request })),
    guest: (guest) => createGuest(host, { ...guest, dir: join(dir.path, 'vm', guest.name) }),
    async [Symbol.asyncDispose]() {
      await holdfast[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** What a run ends with. Throws `<type>: <message>` when it fails. */
export async function resultOf<T>(run: WorkflowHandle): Promise<T> {
  try {
    return (await run.result()) as T;
  } catch (error) {
    const { type, message } = describeFailure(error);
    throw new Error(`${type}: ${message}`, { cause: error });
  }
}

/** A disk that only its test writes to, and what it must read as. */
export class PatternedDisk {
  readonly #content: Buffer;
  readonly device: number;
  constructor(device: number, sizeBytes: number) {
    this.device = device;
    this.#content = Buffer.alloc(sizeBytes);
  }

  /** Writes through the VM's QEMU, as the guest would. */
  async write(guest: Pick<Guest, 'libvirt' | 'dom'>, offsetBytes: number, lengthBytes: number, pattern: number) {
    await writePattern(guest, { device: this.device, offsetBytes, lengthBytes, pattern });
    this.note(offsetBytes, lengthBytes, pattern);
  }

  /** Notes what was written by other means. */
  note(offsetBytes: number, lengthBytes: number, pattern: number): void {
    this.#content.fill(pattern, offsetBytes, offsetBytes + lengthBytes);
  }

  /** The same for bytes that are no pattern. */
  noteBytes(offsetBytes: number, bytes: Uint8Array): void {
    this.#content.set(bytes, offsetBytes);
  }

  /** The same disk as another device. */
  as(device: number): PatternedDisk {
    const other = new PatternedDisk(device, this.#content.length);
    this.#content.copy(other.#content);
    return other;
  }

  grown(sizeBytes: number): PatternedDisk {
    const other = new PatternedDisk(this.device, sizeBytes);
    this.#content.copy(other.#content);
    return other;
  }

  get sha256(): string {
    return createHash('sha256').update(this.#content).digest('hex');
  }
}

/** Every file of the backup is sound, and the chain of each disk reads as it should, by target. */
export async function expectStored(
  holdfast: TestInstallation,
  backup: Backup,
  expected: Record<string, { sha256: string }>,
): Promise<void> {
  const found: Record<string, string> = {};
  for (const { target, file } of backup.disks) {
    await qemuImgCheck(holdfast.blob(file));
    found[target] = await sha256OfImage(holdfast.blob(file), 'qcow2');
  }
  expect(found).toEqual(Object.fromEntries(Object.entries(expected).map(([target, disk]) => [target, disk.sha256])));
}

export async function manifestOf(holdfast: TestInstallation, backup: Backup): Promise<Manifest> {
  const text = await readFile(holdfast.blob(`${backup.vm.uuid}/backups/${backup.id}.json`), 'utf8');
  return manifestSchema.parse(JSON.parse(text));
}

/** Type of each disk and why, shortly: `incremental`, or `full: first-backup`. */
export const kindsOf = (backup: Backup): Record<string, string> =>
  Object.fromEntries(
    backup.disks.map(({ target, type, fullReason }) => [target, fullReason === null ? type : `${type}: ${fullReason}`]),
  );

/** Names of the checkpoints that are on a VM after this backup, where two are kept. */
export const liveCheckpoints = (backup: Backup): string[] =>
  [backup.parentId, backup.id].flatMap((id) => (id === null ? [] : [checkpointName(id)]));

/** The VM runs as before, with exactly the checkpoint of `backup`, and that of its parent, which is kept beside it. */
export async function expectOnlyCheckpointOf(
  guest: Guest,
  backup: Backup | null,
  expected: Partial<ExpectedVm> = {},
): Promise<void> {
  await expectVmClean(guest, guest.name, {
    activeImages: Object.fromEntries(guest.disks.map(({ target, path }) => [target, path])),
    checkpoints: backup === null ? [] : liveCheckpoints(backup),
    ...expected,
  });
}
