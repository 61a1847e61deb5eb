import { chmod, chown, mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import { escapeXml } from '../../libvirt/xml.ts';
import type { Delta } from '../../schemas/delta.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { BackupPlan, BegunBackup, PlannedDisk } from '../../schemas/plan.ts';
import { runCommand } from '../run-command.ts';
import type { Capture } from './capture-store.ts';
import type { HostDependencies } from './dependencies.ts';
import { readDomainFiles } from './domain-files.ts';
import { frozenStamp, imageChains, type ImageChains } from './image-chain.ts';
import { imageServerPid, startChainServer, type ImageServer } from './image-server.ts';
import { createOverlays } from './overlays.ts';
import { powerOf } from './power.ts';
import { quiesced, type Quiesced } from './quiesce.ts';
import { thaw } from './thaw.ts';
import { unusedFiles } from './unused-files.ts';

/**
 * The capture of strategy `snapshot`: an overlay on every disk, put on at one instant, freezes the images below it, which
 * QEMU's own server then exports. The VM may be started or stopped meanwhile: what is frozen stays so.
 */
export const createSnapshotCapture = (dependencies: HostDependencies) => {
  const { libvirt, state, captures, daemonRoot, versions } = dependencies;
  const overlays = createOverlays(dependencies);
  const serverOf = (backupId: string, target: string): ImageServer => ({
    socketPath: join(state.socketFolder(backupId), target),
    pidFile: join(state.socketFolder(backupId), `${target}.pid`),
  });

  /** Repeatable: overlays that were noted are taken up; those of an attempt that was killed are merged back first. */
  async function begin(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<BegunBackup> {
    const before = await captures.read(plan.backupId);
    if (before?.begun != null) {
      await serve(before.plan, signal);
      return before.begun;
    }
    if (before !== undefined) await undoUnfinishedBegin(domain, before, signal);
    const { isRunning, chains } = await imageChains(libvirt, domain, { signal });
    requireAsPlanned(plan, isRunning, chains);
    const capture = await noted(domain, plan, isRunning, signal);
    await state.prepare(plan.backupId, null);
    await captures.write(plan.backupId, capture); // before the act: a killed worker's successor knows what to undo
    const frozen = isRunning ? await freezeRunning(domain, plan, signal) : await freezeStopped(domain, plan, signal);
    const instant = frozen.result.toISOString();
    const files = await unusedFiles(dependencies.openStore, plan, instant);
    const begun: BegunBackup = {
      instant,
      consistency: isRunning ? (frozen.freezeMs === null ? 'crash' : 'application') : 'stopped',
      freezeMs: frozen.freezeMs,
      notFrozen: frozen.notFrozen,
      thawPending: frozen.thawPending,
      exports: plan.disks.map((disk, index) => ({
        target: disk.target,
        socketPath: serverOf(plan.backupId, disk.target).socketPath,
        exportName: disk.target,
        file: files[index] ?? '',
        ...mapOf(disk),
      })),
      deltas: await Promise.all(plan.disks.map((disk) => deltaOf(plan, disk))),
    };
    await captures.write(plan.backupId, { ...capture, phase: 'begun', begun });
    await serve(plan, signal);
    return begun;
  }

  async function undoUnfinishedBegin(domain: Domain, { plan }: Capture, signal: AbortSignal): Promise<void> {
    if (plan.target.quiesce !== 'none') await thaw(libvirt, domain, 60_000);
    await overlays.takeOff(domain, plan, signal);
  }

  async function noted(domain: Domain, plan: BackupPlan, isRunning: boolean, signal: AbortSignal): Promise<Capture> {
    const inactive = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
    const live = isRunning ? await libvirt.domainXml(domain, { secure: true }, { signal }) : null;
    return {
      plan,
      phase: 'beginning',
      begun: null,
      domainXml: {
        inactive: withoutOverlays(inactive, plan),
        live: live === null ? null : withoutOverlays(live, plan),
      },
      checkpointXml: null,
      files: await readDomainFiles(parseDomainXml(live ?? inactive), await daemonRoot()),
      versions: await versions(),
      startedMs: Date.now(),
    };
  }

  async function freezeRunning(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<Quiesced<Date>> {
    const definition = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
    const xml = snapshotXml(
      plan,
      definition.disks.map(({ target }) => target),
    );
    for (const disk of plan.disks) await rm(overlayOf(disk).path, { force: true }); // not among the VM's images: looked at
    return await quiesced(dependencies, domain, plan.target.quiesce, { signal }, async () => {
      const instant = new Date();
      // Not cancellable: an answer that nobody waits for would leave overlays that nobody knows.
      await libvirt
        .snapshotCreate(domain, xml, { diskOnly: true, atomic: true, noMetadata: true })
        .catch((error: unknown) => {
          if (!isLibvirtError(error, LIBVIRT_ERRORS.OPERATION_TIMEOUT, LIBVIRT_ERRORS.RESOURCE_BUSY)) throw error;
          const message = `VM ${plan.target.vm.name} is busy with another job: ${error.message}`;
          throw new HoldfastError('DomainBusy', message, { cause: error });
        });
      return instant;
    });
  }

  /** The images of a stopped VM are frozen by defining it with overlays on them; should it start meanwhile, it uses them. */
  async function freezeStopped(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<Quiesced<Date>> {
    for (const disk of plan.disks) await createOverlay(disk, signal);
    const former = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
    const changes = plan.disks.map((disk) => [disk.target, { path: overlayOf(disk).path, format: 'qcow2' }] as const);
    const instant = new Date();
    await libvirt.define(rewriteDomainXml(former, { disks: Object.fromEntries(changes) }));
    const { state: power } = await libvirt.state(domain);
    if (powerOf(power) !== 'shutoff') {
      const { disks } = parseDomainXml(await libvirt.domainXml(domain));
      const isFrozen = plan.disks.every((disk) =>
        disks.some(({ target, sourcePath }) => target === disk.target && sourcePath === overlayOf(disk).path),
      );
      if (!isFrozen) {
        await libvirt.define(former); // it was started a moment before, on the images as they were
        for (const disk of plan.disks) await rm(overlayOf(disk).path, { force: true });
        await captures.remove(plan.backupId);
        throw new HoldfastError('VmStateChanged', `VM ${plan.target.vm.name} is ${power} now; planning again`);
      }
    }
    return { result: instant, freezeMs: null, notFrozen: null, thawPending: false };
  }

  /** Starts the servers that do not run. */
  async function serve(plan: BackupPlan, signal: AbortSignal): Promise<void> {
    await mkdir(state.socketFolder(plan.backupId), { recursive: true, mode: 0o700 }); // gone when the host was restarted
    for (const disk of plan.disks) {
      const server = serverOf(plan.backupId, disk.target);
      if ((await imageServerPid(server)) !== undefined) continue;
      await startChainServer({ layers: overlayOf(disk).frozen, exportName: disk.target }, server, { signal });
    }
  }

  return { begin, serve };
};

const mapOf = (disk: PlannedDisk): { mapContext: string; allocationDepth?: number } => {
  const { depth } = overlayOf(disk);
  if (disk.type === 'full' || depth === null) return { mapContext: 'base:allocation' };
  return { mapContext: 'qemu:allocation-depth', allocationDepth: depth };
};

async function deltaOf({ backupId }: BackupPlan, disk: PlannedDisk): Promise<Delta> {
  const { path, frozen } = overlayOf(disk);
  const [top] = frozen;
  const frozenPath = top?.path ?? path;
  return {
    backupId,
    target: disk.target,
    path,
    frozenPath,
    frozenFormat: top?.format ?? 'raw',
    frozenStamp: await frozenStamp(frozenPath),
  };
}

/** All disks of the plan at one instant, the others left alone. Source: libvirt docs/formatsnapshot.rst */
function snapshotXml(plan: BackupPlan, allTargets: string[]): string {
  const disks = allTargets.map((target) => {
    const planned = plan.disks.find((disk) => disk.target === target);
    if (planned === undefined) return `<disk name='${escapeXml(target)}' snapshot='no'/>`;
    return (
      `<disk name='${escapeXml(target)}' snapshot='external' type='file'><driver type='qcow2'/>` +
      `<source file='${escapeXml(overlayOf(planned).path)}'/></disk>`
    );
  });
  return `<domainsnapshot><name>${checkpointName(plan.backupId)}</name><disks>${disks.join('')}</disks></domainsnapshot>`;
}

/** The definition as its user knows it: without overlays of earlier backups. */
function withoutOverlays(xml: string, plan: BackupPlan): string {
  const changes = plan.disks.flatMap(({ target, sourcePath, sourceFormat, overlay }) =>
    sourcePath === null || overlay?.frozen[0]?.path === sourcePath
      ? []
      : [[target, { path: sourcePath, format: sourceFormat }] as const],
  );
  return changes.length === 0 ? xml : rewriteDomainXml(xml, { disks: Object.fromEntries(changes) });
}

function requireAsPlanned(plan: BackupPlan, isRunning: boolean, chains: ImageChains): void {
  const { name } = plan.target.vm;
  if (isRunning === plan.stopped) {
    const message = `VM ${name} ${isRunning ? 'was started' : 'was stopped'}; planning again`;
    throw new HoldfastError('VmStateChanged', message);
  }
  for (const disk of plan.disks) {
    const planned = overlayOf(disk).frozen.map(({ path }) => path);
    const found = chains.get(disk.target)?.map(({ path }) => path) ?? [];
    if (planned.length === found.length && planned.every((path, at) => path === found[at])) continue;
    throw new HoldfastError(
      'VmStateChanged',
      `the images of disk ${disk.target} of VM ${name} changed; planning again`,
    );
  }
}

function overlayOf({ target, overlay }: PlannedDisk): NonNullable<PlannedDisk['overlay']> {
  if (overlay !== undefined) return overlay;
  throw new HoldfastError('InvalidRequest', `disk ${target} was planned without an overlay`);
}

/** Beside the image, as its owner has it; without a look into the image, which a VM that starts may lock. */
async function createOverlay(disk: PlannedDisk, signal: AbortSignal): Promise<void> {
  const { path, frozen } = overlayOf(disk);
  const [top] = frozen;
  if (top === undefined) return;
  await rm(path, { force: true });
  await runCommand(
    [
      'qemu-img',
      'create',
      '-q',
      '-u',
      '-f',
      'qcow2',
      '-b',
      top.path,
      '-F',
      top.format,
      path,
      String(disk.virtualSizeBytes),
    ],
    { signal },
  );
  const { uid, gid, mode } = await stat(top.path);
  if (process.getuid?.() === 0) await chown(path, uid, gid);
  await chmod(path, mode & 0o777);
}
