import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import { expect } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import { backupOfCheckpoint } from '../../schemas/names.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { writePattern, type Guest } from '../support/guest.ts';
import { run } from '../support/run.ts';
import { expectStored, resultOf, type TestBed } from '../support/test-bed.ts';
import type { Command, Disturbance } from './commands.ts';
import type { ModelBackup, ModelVm } from './model.ts';

/** Bytes of a write's unit: smaller than a cluster, so that writes begin and end in the middle of one. */
const BLOCK_BYTES = 16_384;

export interface LivingVm {
  model: ModelVm;
  guest: Guest;
}

/** Does to real VMs what the commands say, and compares them with the model after each. */
export class Life {
  readonly #bed: TestBed;
  readonly #vms: LivingVm[];
  constructor(bed: TestBed, vms: LivingVm[]) {
    this.#bed = bed;
    this.#vms = vms;
  }

  /** Returns what was done, in words; undefined when the command made no sense now. */
  async step(command: Command): Promise<string | undefined> {
    const vm = pick(this.#vms, command.vm);
    if (vm === undefined) return undefined;
    const done = await this.#do(command, vm);
    if (done !== undefined && command.do !== 'write') await this.#expectClean(vm);
    return done === undefined ? undefined : `${vm.model.name}: ${done}`;
  }

  async #do(command: Command, vm: LivingVm): Promise<string | undefined> {
    const { model } = vm;
    switch (command.do) {
      case 'write':
        return await this.#write(vm, command);
      case 'take':
        return await this.#take(vm, command);
      case 'start':
        if (model.running) return undefined;
        await this.#bed.host.libvirt.create(vm.guest.dom);
        model.running = true;
        return 'start';
      case 'stop':
        if (!model.running) return undefined;
        await this.#bed.host.libvirt.destroy(vm.guest.dom);
        model.running = false;
        return 'stop';
      case 'finish':
        return await this.#finish(vm);
      default: {
        const backup = pick(model.living, command.backup);
        return backup === undefined ? undefined : await this.#onBackup(command, vm, backup);
      }
    }
  }

  async #onBackup(
    command: Extract<Command, { backup: number }>,
    vm: LivingVm,
    chosen: ModelBackup,
  ): Promise<string | undefined> {
    const backupId = chosen.backup.id;
    switch (command.do) {
      case 'delete':
        await this.#run('deleteBackup', { backupId, force: command.force });
        if (command.force) vm.model.deletedWithChain(chosen);
        else vm.model.deleted(chosen);
        return `delete ${backupId}${command.force ? ' with its chain' : ''}`;
      case 'restore in place':
        if (vm.model.running) return undefined;
        await this.#run('restoreVm', { backupId });
        vm.model.restored(chosen);
        await this.#expectDisks(vm, chosen);
        return `restore ${backupId} in place`;
      case 'restore as new':
        await this.#restoreAsNew(chosen);
        return `restore ${backupId} as a new VM`;
      case 'compress':
        await this.#run('compressBackup', { backupId });
        await expectStored(this.#bed.holdfast, chosen.backup, asDisks(chosen.sha256));
        return `compress ${backupId}`;
      case 'validate':
        await this.#run('validateBackup', { backupId, steps: ['hash'] });
        return `validate ${backupId}`;
    }
  }

  async #write({ model, guest }: LivingVm, command: Extract<Command, { do: 'write' }>): Promise<string | undefined> {
    const index = command.disk % model.disks.length;
    const disk = model.disks[index];
    if (disk === undefined) return undefined;
    const blocks = disk.content.length / BLOCK_BYTES;
    const first = command.at % blocks;
    const offsetBytes = first * BLOCK_BYTES;
    const lengthBytes = Math.min(command.blocks, blocks - first) * BLOCK_BYTES;
    const { pattern } = command;
    if (model.running) {
      await writePattern(guest, { device: index, offsetBytes, lengthBytes, pattern });
    } else {
      const image = (await this.#images(guest)).find(({ target }) => target === disk.target);
      if (image === undefined) throw new Error(`${guest.name} has no disk ${disk.target}`);
      const write = `write -P ${pattern} ${offsetBytes} ${lengthBytes}`;
      await run('qemu-io', ['-f', image.format, '-c', write, image.path]);
    }
    disk.content.fill(pattern, offsetBytes, offsetBytes + lengthBytes);
    return `write ${lengthBytes} bytes of ${pattern} to ${disk.target} at ${offsetBytes}`;
  }

  async #take({ model }: LivingVm, command: Extract<Command, { do: 'take' }>): Promise<string> {
    const { isolated, full, plain, disturb } = command;
    const expectedType = model.nextType({ isolated, full });
    const takes = await this.#start('takeBackup', {
      vm: model.name,
      quiesce: 'none',
      isolated,
      full,
      compression: plain ? 'none' : 'zstd',
    });
    await this.#disturb(disturb, takes);
    const what = `take${isolated ? ' isolated' : ''}${full ? ' full' : ''} (${disturb.kind} after ${disturb.afterMs} ms)`;
    let backup: Backup;
    try {
      backup = await resultOf<Backup>(takes);
    } catch (error) {
      if (disturb.kind === 'cancel' && String(error).includes('Cancelled')) return `${what}: cancelled`;
      throw error;
    }
    expect(backup.type, `${model.name}: ${what}: ${JSON.stringify(backup.disks)}`).toBe(expectedType);
    model.stored(backup, { isolated });
    await expectStored(this.#bed.holdfast, backup, asDisks(model.shas));
    return `${what}: ${backup.type} ${backup.id}`;
  }

  async #finish({ model }: LivingVm): Promise<string> {
    const request = { vm: model.name };
    if (model.chain.length > 0) {
      await this.#run('finishChain', request);
      model.chain = [];
      return 'finish';
    }
    await expect(this.#run('finishChain', request)).rejects.toThrow(/nothing to finish|no open chain/i);
    return 'finish: nothing to finish';
  }

  async #restoreAsNew({ backup, sha256 }: ModelBackup): Promise<void> {
    const { libvirt } = this.#bed.host;
    const as = `copy-${randomUUID().slice(0, 8)}`;
    const restored = await this.#run<RestoredVm>('restoreVm', { backupId: backup.id, as });
    const found: Record<string, string> = {};
    for (const { target, path } of restored.disks) {
      const format = path.endsWith('.img') ? 'raw' : 'qcow2';
      if (format === 'qcow2') await qemuImgCheck(path);
      found[target] = await sha256OfImage(path, format);
    }
    expect(found, `backup ${backup.id} restored`).toEqual(sha256);
    const domain = await libvirt.lookupByName(as);
    if (domain !== undefined) await libvirt.undefine(domain);
    for (const { path } of restored.disks) await rm(path);
  }

  async #disturb({ kind, afterMs }: Disturbance, operation: WorkflowHandle): Promise<void> {
    if (kind === 'none') return;
    await delay(afterMs);
    if (kind === 'cancel') {
      await operation.cancel();
      return;
    }
    const worker = kind === 'kill host worker' ? 'host' : 'control';
    await this.#bed.holdfast.kill(worker);
    await this.#bed.holdfast.isBack(worker);
  }

  async #start(workflow: string, request: unknown): Promise<WorkflowHandle> {
    const client = await this.#bed.holdfast.client();
    return await client.workflow.start(workflow, {
      taskQueue: 'control',
      workflowId: `${workflow}-${randomUUID()}`,
      args: [request],
    });
  }

  async #run<T>(workflow: string, request: unknown): Promise<T> {
    return await resultOf<T>(await this.#start(workflow, request));
  }

  async #images(guest: Guest): Promise<{ target: string; path: string; format: string }[]> {
    const { disks } = parseDomainXml(await this.#bed.host.libvirt.domainXml(guest.dom));
    return disks.map(({ target, sourcePath, format }) => ({ target, path: sourcePath ?? '', format }));
  }

  async #expectDisks({ guest }: LivingVm, { sha256 }: ModelBackup): Promise<void> {
    const found: Record<string, string> = {};
    for (const { target, path, format } of await this.#images(guest)) {
      found[target] = await sha256OfImage(path, format === 'raw' ? 'raw' : 'qcow2');
    }
    expect(found, `disks of ${guest.name}`).toEqual(sha256);
  }

  /**
   * Nothing is on the VM but checkpoints of its open chain, or of one that ended since the last backup; with strategy
   * `snapshot`, one overlay for each disk.
   */
  async #expectClean({ model, guest }: LivingVm): Promise<void> {
    const { libvirt } = this.#bed.host;
    const checkpoints = await libvirt.checkpointList(guest.dom);
    const { chain, ended } = model;
    const known = [...chain, ...ended].map(({ backup }) => backup.id);
    expect(known, 'backups of which the VM may have checkpoints').toEqual(
      expect.arrayContaining(checkpoints.map(backupOfCheckpoint)),
    );
    const images = await this.#images(guest);
    const paths = Object.fromEntries(guest.disks.map(({ target, path }) => [target, path]));
    const active = Object.fromEntries(images.map(({ target, path }) => [target, path]));
    if (model.strategy === 'checkpoint' || known.length === 0) expect(active).toEqual(paths);
    else for (const [target, path] of Object.entries(active)) expect(path.startsWith(paths[target] ?? '?')).toBe(true);
    await expectVmClean(guest, guest.name, {
      activeImages: active,
      checkpoints,
      state: model.running ? 'running' : 'shutoff',
      otherFiles: guest.disks.map(({ path }) => path.slice(path.lastIndexOf('/') + 1)),
    });
  }

  /** What the installation knows, for whoever has to find out what went wrong. */
  async describe(): Promise<string> {
    const shown = await Promise.all(
      this.#vms.map(async ({ model }) => (await this.#bed.holdfast.cli('chain', 'show', model.name)).stdout),
    );
    const jobs = await this.#bed.holdfast.cli('job', 'ls');
    return [...shown, jobs.stdout].join('\n');
  }

  /** All that was ever backed up and not deleted reads as it did, and nothing is left over anywhere. */
  async expectAllGood(): Promise<void> {
    for (const vm of this.#vms) {
      for (const { backup, sha256 } of vm.model.living) {
        await expectStored(this.#bed.holdfast, backup, asDisks(sha256));
      }
      await this.#expectClean(vm);
      const listed = await this.#bed.holdfast.json<Backup[]>('backup', 'ls', vm.model.name);
      const stored = listed.filter(({ state }) => state === 'BackedUp').map(({ id }) => id);
      expect(stored.toSorted()).toEqual(vm.model.living.map(({ backup }) => backup.id).toSorted());
    }
    const { found } = await this.#run<{ found: string[] }>('reclaimOrphans', { dryRun: true, graceSeconds: 0 });
    expect(found, 'what belongs to no running operation').toEqual([]);
  }
}

const asDisks = (sha256: Readonly<Record<string, string>>): Record<string, { sha256: string }> =>
  Object.fromEntries(Object.entries(sha256).map(([target, sum]) => [target, { sha256: sum }]));

const pick = <T>(all: readonly T[], number: number): T | undefined =>
  all.length === 0 ? undefined : all[number % all.length];
