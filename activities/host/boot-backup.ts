import { Context, log } from '@temporalio/activity';
import { freemem, totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkChainHeaders } from '../../copier/chain-headers.ts';
import { DomainXmlError, parseDomainXml } from '../../libvirt/domain-xml.ts';
import { LibvirtError } from '../../libvirt/libvirt.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { validationKey } from '../../repository/layout.ts';
import { readManifest } from '../../repository/manifest.ts';
import { keysFor } from '../../repository/repository-keys.ts';
import { sealBytes, unsealManifest } from '../../repository/sealed-manifest.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { settingsOf } from '../../schemas/repository.ts';
import type { StepResult, ValidationPlan } from '../../schemas/validation.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { openChainFiles } from './chain-files.ts';
import type { HostDependencies } from './dependencies.ts';
import { runInGuest } from './guest-command.ts';
import { findingOf } from './hash-backup.ts';
import { isPng, pngFromPpm } from './png-from-ppm.ts';
import { diskOfFile, filesOfDisk, readManifestChain } from './restore-chain.ts';
import type { DiskToServe } from './serve-backup.ts';
import { createThrowAwayVms, type StoredBackup, type ThrowAwayVm } from './throw-away-vm.ts';

/** What a throw-away VM needs of the host's memory, and what there is. */
export interface Room {
  neededBytes: number;
  freeBytes: number;
  totalBytes: number;
}

export type BootedBackup =
  | { kind: 'no-room'; room: Room }
  | { kind: 'tried'; steps: StepResult[]; bootMs: number | null; screenshot: string | null };

/** Left free for the host and its VMs beside a throw-away VM. */
const RESERVE_BYTES = 512 * 1024 * 1024;
/** A guest without an agent is looked at when its screen has not changed much for this long. */
const SETTLED_MS = 10_000;
const CLEAN_UP_MS = 120_000;

export const createBootBackup = (dependencies: HostDependencies) => {
  const { libvirt, openStore, fence } = dependencies;
  const vms = createThrowAwayVms(dependencies);
  /** Memory of the throw-away VMs of this worker: QEMU takes it only as the guest touches it. */
  const taken = new Map<string, number>();

  return {
    /**
     * Boots a backup as a throw-away VM, takes a picture of its screen and runs the command in it. What the guest does is
     * found, not thrown; nothing of the VM remains.
     * @throws HypervisorError, HostUnreachable, RepositoryUnavailable, DestinationFull: then nothing is known
     */
    async bootBackup(plan: ValidationPlan): Promise<BootedBackup> {
      return await fence.run(fenceOf(plan), cancellationSignal(), async (signal) => {
        return await withStep(async (step) => {
          await vms.end(plan.validationId, { signal }); // what an earlier attempt left
          step('checking what the files name');
          const startedMs = Date.now();
          const prepared = await prepare(plan, signal).catch((error: unknown) => {
            const finding = error instanceof DomainXmlError ? error.message : findingOf(error);
            if (finding === undefined) throw error;
            return finding;
          });
          if (typeof prepared === 'string') return notStarted(plan, prepared, startedMs);
          const { memoryBytes } = parseDomainXml(prepared.manifest.domainXml.inactive);
          const room = roomFor(memoryBytes);
          if (room.freeBytes < room.neededBytes) return { kind: 'no-room', room };
          taken.set(plan.validationId, memoryBytes);
          try {
            step('starting the throw-away VM');
            const vm = await vms.start(plan, prepared, { signal });
            return await examine(plan, vm, prepared.store, step, signal);
          } catch (error) {
            if (error instanceof DomainXmlError) return notStarted(plan, error.message, startedMs);
            signal.throwIfAborted();
            throw error;
          } finally {
            taken.delete(plan.validationId);
            // Not the step's signal: it may be what ends the step. What fails here is done again by the workflow's undo.
            await vms.end(plan.validationId, { signal: AbortSignal.timeout(CLEAN_UP_MS) }).catch((error: unknown) => {
              log.warn('the throw-away VM was not ended; the undo tries again', { backupId: plan.backupId, error });
            });
          }
        });
      });
    },
  };

  /** The stored files of each disk, whose headers are proved to name what the manifests say and nothing else. */
  async function prepare(plan: ValidationPlan, signal: AbortSignal): Promise<StoredBackup & { store: BlobStore }> {
    const { repository } = plan;
    const store = openStore(repository.location);
    await openRepository(store, repository);
    const chain = await readManifestChain(store, plan.vm.uuid, plan.backupId);
    const listed = chain.get(plan.backupId);
    if (listed === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${plan.backupId}`);
    const keys = await keysFor(store, repository);
    const manifest = await unsealManifest(listed, keys);
    const disks: DiskToServe[] = [];
    for (const { target, virtualSizeBytes } of manifest.disks) {
      const links = filesOfDisk(chain, plan.backupId, target);
      const stored = links.map((link) => diskOfFile(chain, link));
      await checkChainHeaders({ chain: await openChainFiles(store, keys, stored), virtualSizeBytes, signal });
      disks.push({ target, virtualSizeBytes, chain: links });
    }
    return { store, repository, manifest, chain, disks };
  }

  function roomFor(memoryBytes: number): Room {
    const others = [...taken.values()].reduce((sum, bytes) => sum + bytes, 0);
    return roomOf(memoryBytes, others);
  }

  async function examine(
    plan: ValidationPlan,
    vm: ThrowAwayVm,
    store: BlobStore,
    step: (name: string) => void,
    signal: AbortSignal,
  ): Promise<BootedBackup> {
    const steps: StepResult[] = [];
    step('waiting for the guest agent');
    const without = vm.left.length === 0 ? '' : `; without ${vm.left.join(', ')}`;
    const waited = await waitForGuest(plan, vm, signal);
    const bootMs = waited.result === 'passed' ? waited.durationMs : null;
    const boot: StepResult = { step: 'boot', ...waited, detail: `${waited.detail}${without}` };
    // A command cannot run in a guest that does not boot: that is why, also when `boot` itself was not asked for.
    if (plan.steps.includes('boot')) steps.push(boot);
    let screenshot: string | null = null;
    if (plan.steps.includes('screenshot')) {
      step('taking a picture of the screen');
      const taken = await photograph(plan, vm, store, signal);
      steps.push(taken.step);
      screenshot = taken.key;
    }
    if (plan.steps.includes('command')) {
      step('running the command');
      const startedMs = Date.now();
      const outcome = await command(plan, vm, boot, signal);
      steps.push({ step: 'command', ...outcome, durationMs: Date.now() - startedMs });
    }
    return { kind: 'tried', steps, bootMs, screenshot };
  }

  async function waitForGuest(
    plan: ValidationPlan,
    vm: ThrowAwayVm,
    signal: AbortSignal,
  ): Promise<Omit<StepResult, 'step'>> {
    const { domain, startedMs, hasAgentChannel } = vm;
    const ended = (result: StepResult['result'], detail: string) => ({
      result,
      detail,
      durationMs: Date.now() - startedMs,
    });
    if (!hasAgentChannel) {
      return ended(
        'skipped',
        'the VM has no channel for a guest agent, so nothing tells whether it boots; see its screenshot',
      );
    }
    const deadline = startedMs + plan.bootTimeoutSeconds * 1000;
    for (;;) {
      try {
        await libvirt.agentCommand(domain, { execute: 'guest-ping' }, 2, { signal });
        return ended('passed', `the guest agent answered after ${seconds(Date.now() - startedMs)}`);
      } catch (error) {
        if (!(error instanceof LibvirtError)) throw error;
      }
      const now = await vms.stateOf(domain, { signal });
      if (now === 'gone')
        return ended('failed', 'the guest shut itself down, or QEMU ended, before its agent answered');
      if (now === 'paused') return ended('unable', 'QEMU paused the guest: an I/O error, or the scratch space is full');
      if (Date.now() > deadline) {
        return ended('failed', `the guest agent did not answer within ${plan.bootTimeoutSeconds} s`);
      }
      await sleep(300, undefined, { signal });
    }
  }

  async function photograph(
    plan: ValidationPlan,
    vm: ThrowAwayVm,
    store: BlobStore,
    signal: AbortSignal,
  ): Promise<{ step: StepResult; key: string | null }> {
    const startedMs = Date.now();
    const step = (result: StepResult['result'], detail: string): StepResult => ({
      step: 'screenshot',
      result,
      detail,
      durationMs: Date.now() - startedMs,
    });
    if (!vm.hasScreen) return { step: step('skipped', 'the VM has no screen'), key: null };
    let image: Buffer;
    try {
      image = vm.hasAgentChannel ? await picture(vm, signal) : await settledPicture(plan, vm, signal);
    } catch (error) {
      if (!(error instanceof LibvirtError || error instanceof RangeError)) throw error;
      return { step: step('unable', `no picture of the screen was to be had: ${error.message}`), key: null };
    }
    const { encryption } = settingsOf(plan.repository);
    const key = validationKey(plan.vm.uuid, plan.backupId, { isEncrypted: encryption !== null });
    await store.putBlob(key, encryption === null ? image : await sealBytes(image, encryption), { replace: true });
    return { step: step('passed', `kept as ${key}`), key };
  }

  async function picture({ domain }: ThrowAwayVm, signal: AbortSignal): Promise<Buffer> {
    const { image } = await libvirt.screenshot(domain, { signal });
    return isPng(image) ? image : pngFromPpm(image);
  }

  /** Of a guest that does not tell when it is up: when its screen has come to rest. */
  async function settledPicture(plan: ValidationPlan, vm: ThrowAwayVm, signal: AbortSignal): Promise<Buffer> {
    const deadline = vm.startedMs + plan.bootTimeoutSeconds * 1000;
    for (let before = await picture(vm, signal); ;) {
      await sleep(SETTLED_MS, undefined, { signal });
      const now = await picture(vm, signal);
      // A cursor that blinks is no news: it changes some bytes of a compressed picture, what a booting guest shows many.
      const isAtRest = Math.abs(now.length - before.length) <= 64 + before.length / 100;
      if ((isAtRest && Date.now() - vm.startedMs > 2 * SETTLED_MS) || Date.now() > deadline) return now;
      before = now;
    }
  }

  async function command(
    plan: ValidationPlan,
    vm: ThrowAwayVm,
    boot: StepResult,
    signal: AbortSignal,
  ): Promise<Pick<StepResult, 'result' | 'detail'>> {
    if (plan.command === null) return NO_COMMAND;
    if (!vm.hasAgentChannel) return { result: 'unable', detail: 'the VM has no guest agent that could run it' };
    if (boot.result === 'passed') return await runInGuest(libvirt, vm.domain, plan.command, { signal });
    return plan.steps.includes('boot')
      ? { result: 'skipped', detail: 'the guest did not boot' }
      : { result: boot.result, detail: boot.detail };
  }
};

export const NO_COMMAND = { result: 'skipped', detail: 'no command is configured' } as const;

export const createValidationSteps = (dependencies: HostDependencies) => {
  const { openStore, fence } = dependencies;
  const vms = createThrowAwayVms(dependencies);
  return {
    /**
     * Whether this host can read the backup's repository, and whether it has room for the VM.
     * @throws RepositoryUnavailable, RepositoryForeign, KeyMissing, KeyWrong
     */
    async validationRoom(plan: ValidationPlan): Promise<Room> {
      const store = openStore(plan.repository.location);
      await openRepository(store, plan.repository);
      const keys = await keysFor(store, plan.repository);
      const manifest = await readManifest(store, plan.vm.uuid, plan.backupId)
        .then((stored) => unsealManifest(stored, keys))
        .catch((error: unknown) => {
          if (findingOf(error) === undefined) throw error;
          return undefined; // missing or damaged: the step itself finds out
        });
      return roomOf(manifest === undefined ? 0 : memoryOf(manifest), 0);
    },

    /** Ends the throw-away VM of a validation and removes all that was made for it. Repeatable. */
    async endThrowAwayVm(plan: Pick<ValidationPlan, 'validationId'>): Promise<void> {
      await withHeartbeat('ending the throw-away VM', async () => {
        await fence.stop((key) => key === fenceOf(plan), 'undone');
        await vms.end(plan.validationId, { signal: cancellationSignal() });
      });
    },
  };
};

const fenceOf = ({ validationId }: { validationId: string }): string => `boot ${validationId}`;

/** A definition that cannot be read needs no room: the step itself finds out. */
function memoryOf(manifest: Manifest): number {
  try {
    return parseDomainXml(manifest.domainXml.inactive).memoryBytes;
  } catch (error) {
    if (error instanceof DomainXmlError) return 0;
    throw error;
  }
}

/** `freemem` counts what the kernel could give away, caches included. */
const roomOf = (memoryBytes: number, othersBytes: number): Room => ({
  neededBytes: memoryBytes + othersBytes + RESERVE_BYTES,
  freeBytes: freemem(),
  totalBytes: totalmem(),
});

/** The files or the definition are such that no VM can be made of them. */
function notStarted(plan: ValidationPlan, why: string, startedMs: number): BootedBackup {
  const steps = plan.steps.flatMap((step): StepResult[] => {
    if (step === 'hash') return [];
    if (step === 'command' && plan.command === null) return [{ step, ...NO_COMMAND, durationMs: 0 }];
    // Without `boot` among the steps, the first that is there says why.
    const first = plan.steps.find((each) => each !== 'hash');
    return step === first
      ? [{ step, result: 'failed', detail: why, durationMs: Date.now() - startedMs }]
      : [{ step, result: 'skipped', detail: 'the guest did not boot', durationMs: 0 }];
  });
  return { kind: 'tried', steps, bootMs: null, screenshot: null };
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** Heartbeats that tell the step, while `work` runs. */
async function withStep<T>(work: (step: (name: string) => void) => Promise<T>): Promise<T> {
  const context = Context.current();
  let current = '';
  const pulse = setInterval(() => context.heartbeat({ step: current }), 1000);
  try {
    return await work((name) => void (current = name));
  } finally {
    clearInterval(pulse);
  }
}
