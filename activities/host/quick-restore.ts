import { rm } from 'node:fs/promises';
import { ioErrorPoliciesOf, layerOnExports, type NbdExport } from '../../libvirt/backing-chain-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { LibvirtError, type Domain } from '../../libvirt/libvirt.ts';
import { qemuUserOf } from '../../libvirt/qemu-user.ts';
import { nbdUri } from '../../gateway/serve-disks.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { checkChainHeaders } from '../../copier/chain-headers.ts';
import { openRepository } from '../../repository/identity.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskToRestore, PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { keysFor } from '../../repository/repository-keys.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { runCommand } from '../run-command.ts';
import { openChainFiles } from './chain-files.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { powerOf } from './power.ts';
import { readQuickNote, writeQuickNote } from './quick-restore-notes.ts';
import { diskOfFile, readManifestChain, type ManifestChain } from './restore-chain.ts';
import { restoreFence } from './restore-disk.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { serveBackup } from './serve-backup.ts';
import { createSwapDisks } from './swap-disks.ts';

export const createQuickRestore = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { fence, gateways, host, libvirt, openStore, restores, state } = dependencies;
  const swaps = createSwapDisks(dependencies);

  return {
    /**
     * Starts the VM on empty overlays over a gateway that serves the backup, in the places where its disks are going to be. The
     * former disks stay beside until the new ones depend on nothing. Repeatable: a VM that runs so already is not started again.
     * @throws IntegrityMismatch, GatewayFailed, VmNotStopped, VmDefinitionInvalid, VmStartFailed
     */
    async bootOnBackup(plan: RestorePlan, prepared: PreparedRestore): Promise<RestoredVm> {
      return await alone(plan, 'booting the VM on the backup', async (signal) => {
        const noted = await readQuickNote(restores, plan.restoreId);
        const result: RestoredVm = {
          vm: prepared.vm,
          disks: prepared.disks.map(({ target, path }) => ({ target, path, verified: false })),
          ...(prepared.warnings === undefined ? {} : { warnings: prepared.warnings }),
        };
        if (noted?.booted === true) return result;
        const present = await libvirt.lookupByUuid(prepared.vm.uuid, { signal });
        if (present !== undefined && noted !== undefined && (await runsOnBackup(present, prepared, signal))) {
          await writeQuickNote(restores, plan.restoreId, { ...noted, booted: true }); // only the answer was lost
          return result;
        }
        const note = noted ?? {
          formerXml:
            present === undefined
              ? null
              : await libvirt.domainXml(present, { inactive: true, secure: true }, { signal }),
          policies: {},
          booted: false,
        };
        if (noted === undefined) await writeQuickNote(restores, plan.restoreId, note);

        const exports = await layOverlays(plan, prepared, signal);
        await swaps.swapDisks(plan, {
          ...prepared,
          disks: prepared.disks.map((disk) => ({ ...disk, format: 'qcow2' })),
        });
        const domain = await domainOf(libvirt, prepared.vm, host, { signal });
        const xml = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
        const policies =
          Object.keys(note.policies).length > 0 ? note.policies : ioErrorPoliciesOf(xml, Object.keys(exports));
        await writeQuickNote(restores, plan.restoreId, { ...note, policies });
        await libvirt.define(layerOnExports(xml, exports), {}, { signal });
        await start(domain, signal);
        await writeQuickNote(restores, plan.restoreId, { ...note, policies, booted: true });
        return result;
      });
    },

    /** Undoes a quick restore whose VM is not to run: former definition and disks back, overlays gone. Repeatable. */
    async undoQuickRestore(plan: RestorePlan): Promise<void> {
      await withHeartbeat('undoing the quick restore', () => undo(plan));
    },

    /**
     * The same after the VM ran: what its guest wrote is lost.
     * @throws VmNotStopped
     */
    async withdrawQuickRestore(plan: RestorePlan): Promise<void> {
      await withHeartbeat('undoing the quick restore', async () => {
        const signal = cancellationSignal();
        const vm = (await restores.read(plan.restoreId))?.prepared.vm;
        const domain = vm && (await libvirt.lookupByUuid(vm.uuid, { signal }));
        if (domain !== undefined && powerOf((await libvirt.state(domain, { signal })).state) !== 'shutoff') {
          throw new HoldfastError('VmNotStopped', `VM ${domain.name} runs; stop it before its quick restore is undone`);
        }
        await undo(plan);
      });
    },

    /** Whether the VM of a restore that ended in between runs on the backup; if it came not so far all is undone. */
    async settleQuickRestore(plan: RestorePlan): Promise<{ booted: boolean }> {
      return await withHeartbeat('looking for the VM', async () => {
        const signal = cancellationSignal();
        const note = await readQuickNote(restores, plan.restoreId);
        const prepared = (await restores.read(plan.restoreId))?.prepared;
        const domain = prepared && (await libvirt.lookupByUuid(prepared.vm.uuid, { signal }));
        const booted =
          note !== undefined &&
          prepared !== undefined &&
          (note.booted || (domain !== undefined && (await runsOnBackup(domain, prepared, signal))));
        if (booted) await writeQuickNote(restores, plan.restoreId, { ...note, booted: true });
        else await undo(plan);
        return { booted };
      });
    },
  };

  /** A newer attempt, and an undo, stop an older attempt and wait for its end. */
  async function alone<T>(plan: RestorePlan, step: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const key = restoreFence(plan.restoreId, 'quick');
    return await withHeartbeat(step, () => fence.run(key, cancellationSignal(), work));
  }

  /** Has the backup served, and writes an empty overlay beside each disk's place. Gives what lies beneath, by the place. */
  async function layOverlays(
    plan: RestorePlan,
    { disks }: PreparedRestore,
    signal: AbortSignal,
  ): Promise<Record<string, NbdExport>> {
    const store = openStore(plan.repository.location);
    await openRepository(store, plan.repository);
    const chain = await readManifestChain(store, plan.vm.uuid, plan.backupId);
    const { restoreId: id, repository } = plan;
    const owner = qemuUserOf(await libvirt.capabilitiesXml({ signal }));
    const [checked, started] = await Promise.allSettled([
      requireHeaders(store, plan, chain, disks, signal),
      serveBackup(dependencies, { id, repository, chain, disks, owner }, { signal }),
    ]);
    if (checked.status === 'rejected') throw checked.reason; // it says which file, where the gateway only fails
    if (started.status === 'rejected') throw started.reason;
    const served = started.value;
    const isSwapped = (await restores.read(id))?.phase !== 'writing';
    const exports: Record<string, NbdExport> = {};
    for (const disk of disks) {
      const beneath = served[disk.target];
      if (beneath === undefined) throw new RangeError(`disk ${disk.target} is not served`);
      exports[disk.path] = beneath;
      if (isSwapped) continue; // an earlier attempt laid them all, and some are in their places
      await rm(disk.besidePath, { force: true });
      // The name in the overlay is for people and for a definition that lost the chain: better the backup than zeroes.
      const overlay = ['-b', nbdUri(beneath), '-F', 'raw', disk.besidePath, String(disk.virtualSizeBytes)];
      await runCommand(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', ...overlay], { signal });
    }
    return exports;
  }

  /** @throws CopierError `integrity`, `file-missing` when a file is not the one that its manifest names */
  async function requireHeaders(
    store: BlobStore,
    { repository }: RestorePlan,
    chain: ManifestChain,
    disks: readonly DiskToRestore[],
    signal: AbortSignal,
  ): Promise<void> {
    const keys = await keysFor(store, repository);
    for (const { virtualSizeBytes, chain: links } of disks) {
      const files = links.map((link) => diskOfFile(chain, link));
      const stored = await openChainFiles(store, keys, files);
      await checkChainHeaders({ chain: stored, virtualSizeBytes, signal });
    }
  }

  async function start(domain: Domain, signal: AbortSignal): Promise<void> {
    if (powerOf((await libvirt.state(domain, { signal })).state) === 'running') return;
    try {
      await libvirt.create(domain, {}, { signal });
    } catch (error) {
      if (!(error instanceof LibvirtError)) throw error;
      if (powerOf((await libvirt.state(domain, { signal })).state) === 'running') return;
      throw new HoldfastError(
        'VmStartFailed',
        `VM ${domain.name} does not start on the backup: ${error.message}; or restore without --quick`,
        { cause: error },
      );
    }
  }

  /** It has a QEMU that reads through one of our overlays. */
  async function runsOnBackup(domain: Domain, { disks }: PreparedRestore, signal: AbortSignal): Promise<boolean> {
    const power = powerOf((await libvirt.state(domain, { signal })).state);
    if (power === 'shutoff') return false;
    const { disks: live } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
    return live.some(
      ({ sourcePath, backingChain }) => backingChain.length > 0 && disks.some(({ path }) => path === sourcePath),
    );
  }

  async function undo(plan: RestorePlan): Promise<void> {
    const signal = cancellationSignal();
    const noted = await restores.read(plan.restoreId);
    const quick = await readQuickNote(restores, plan.restoreId);
    if (noted !== undefined && quick !== undefined) {
      const domain = await libvirt.lookupByUuid(noted.prepared.vm.uuid, { signal });
      if (domain !== undefined && (await runsOnBackup(domain, noted.prepared, signal))) {
        await libvirt.destroy(domain, { signal });
      }
      // From here it is a restore whose disks were being swapped in: its undo puts the former ones back.
      if (noted.phase === 'swapped') await restores.write(plan.restoreId, { ...noted, phase: 'swapping' });
      if (domain !== undefined && quick.formerXml !== null) await libvirt.define(quick.formerXml, {}, { signal });
    }
    await swaps.undoRestore(plan);
    await gateways.end(plan.restoreId);
    await state.remove(plan.restoreId);
  }
};
