import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { escapeXml } from '../../libvirt/xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { BackupPlan, BegunBackup, PlannedDisk } from '../../schemas/plan.ts';
import type { Capture } from './capture-store.ts';
import type { HostDependencies } from './dependencies.ts';
import { readDomainFiles } from './domain-files.ts';
import { endImageServer, imageServerPid, imageStamp, startImageServer, type ImageServer } from './image-server.ts';
import { isNotFound } from './json-notes.ts';
import { addStoppedBitmap } from './stopped-images.ts';
import { unusedFiles } from './unused-files.ts';

/**
 * The capture of a stopped VM: its images, read where they lie by QEMU's own server. Nothing writes to them; should the
 * VM be started meanwhile, it is not blocked, and the backup is undone.
 */
export const createStoppedCapture = ({
  captures,
  state,
  daemonRoot,
  versions,
  libvirt,
  openStore,
}: HostDependencies) => {
  const serverOf = (backupId: string, target: string): ImageServer => ({
    socketPath: join(state.socketFolder(backupId), target),
    pidFile: join(state.socketFolder(backupId), `${target}.pid`),
  });

  /** Repeatable: a capture that began goes on as long as no image has changed. */
  async function begin(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<BegunBackup> {
    const before = await captures.read(plan.backupId);
    if (before?.begun != null) {
      await requireUnchanged(before);
      await serve(plan, signal);
      return before.begun;
    }
    const xml = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
    const stamps = Object.fromEntries(
      await Promise.all(plan.disks.map(async (disk) => [disk.target, await imageStamp(pathOf(disk))] as const)),
    );
    const capture: Capture = {
      plan,
      phase: 'beginning',
      begun: null,
      domainXml: { inactive: xml, live: null },
      checkpointXml: null,
      files: await readDomainFiles(parseDomainXml(xml), await daemonRoot()),
      versions: await versions(),
      startedMs: Date.now(),
      stamps,
    };
    await endServers(plan.backupId); // of an attempt that was ended before it noted that it had begun
    await state.prepare(plan.backupId, null);
    await captures.write(plan.backupId, capture);
    const instant = new Date().toISOString();
    await serve(plan, signal);
    const files = await unusedFiles(openStore, plan, instant);
    const begun: BegunBackup = {
      instant,
      consistency: 'stopped',
      freezeMs: null,
      notFrozen: null,
      thawPending: false,
      exports: plan.disks.map(({ target, type }, index) => ({
        target,
        socketPath: serverOf(plan.backupId, target).socketPath,
        exportName: target,
        mapContext: type === 'incremental' ? `qemu:dirty-bitmap:${parentBitmap(plan)}` : 'base:allocation',
        file: files[index] ?? '',
      })),
    };
    await captures.write(plan.backupId, { ...capture, phase: 'begun', begun });
    return begun;
  }

  async function serve(plan: BackupPlan, signal: AbortSignal): Promise<void> {
    for (const disk of plan.disks) {
      const server = serverOf(plan.backupId, disk.target);
      if ((await imageServerPid(server)) !== undefined) continue;
      const image = {
        path: pathOf(disk),
        format: disk.sourceFormat,
        exportName: disk.target,
        bitmap: disk.type === 'incremental' ? parentBitmap(plan) : null,
      };
      await startImageServer(image, server, { signal });
    }
  }

  /**
   * After the copies: makes sure that they are of one unchanged instant, and lays the bitmaps into the images that the
   * next backup builds on. Repeatable.
   * @throws HoldfastError BackupJobLost when the VM was started, or an image changed, meanwhile
   */
  async function end(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<void> {
    await endServers(plan.backupId);
    const capture = await captures.read(plan.backupId);
    if (capture === undefined || capture.checkpointXml !== null) return;
    if (capture.phase !== 'sealing') {
      await requireStopped(domain, plan, signal);
      await requireUnchanged(capture);
      if (!plan.checkpoint) return;
      await captures.write(plan.backupId, { ...capture, phase: 'sealing' }); // from here on the stamps change by our hand
    }
    const marked: string[] = [];
    for (const disk of plan.disks.filter(({ holdsBitmap }) => holdsBitmap)) {
      if (await addStoppedBitmap(pathOf(disk), plan.backupId, { signal })) marked.push(disk.target);
    }
    const checkpointXml = marked.length === 0 ? null : checkpointOf(capture, marked);
    await captures.write(plan.backupId, { ...capture, phase: 'begun', checkpointXml });
  }

  /** An image that changed since it was opened is not the instant any more. */
  async function requireUnchanged({ plan, stamps }: Capture): Promise<void> {
    for (const disk of plan.disks) {
      if ((await imageStamp(pathOf(disk))) === stamps?.[disk.target]) continue;
      throw new HoldfastError(
        'BackupJobLost',
        `disk ${disk.target} of ${plan.target.vm.name} was changed while it was read; the backup is undone`,
      );
    }
  }

  async function requireStopped(domain: Domain, { target }: BackupPlan, signal: AbortSignal): Promise<void> {
    const { state: power } = await libvirt.state(domain, { signal });
    if (power === 'shutoff' || power === 'crashed') return;
    throw new HoldfastError(
      'BackupJobLost',
      `VM ${target.vm.name} was started while it was read; the backup is undone`,
    );
  }

  /** Ends every server of a backup, also those of a worker that was killed. */
  async function endServers(backupId: string): Promise<void> {
    const folder = state.socketFolder(backupId);
    const names = await readdir(folder).catch((error: unknown) => {
      if (isNotFound(error)) return [];
      throw error;
    });
    for (const name of names.filter((file) => file.endsWith('.pid'))) {
      await endImageServer(serverOf(backupId, name.slice(0, -'.pid'.length)));
    }
  }

  return { begin, end, serve, requireUnchanged, endServers };
};

const parentBitmap = (plan: BackupPlan): string => checkpointName(plan.parentId ?? plan.backupId);

function pathOf({ target, sourcePath }: PlannedDisk): string {
  if (sourcePath !== null) return sourcePath;
  throw new HoldfastError(
    'DiskMismatch',
    `disk ${target} is neither a file nor a block device; it is read only while the VM runs`,
  );
}

/**
 * What libvirt would have written of such a checkpoint: with it the record is made when the VM runs again.
 * Source: libvirt docs/formatcheckpoint.rst, "Checkpoint XML", redefinition
 */
function checkpointOf({ plan, domainXml, startedMs }: Capture, marked: string[]): string {
  const name = checkpointName(plan.backupId);
  const disks = parseDomainXml(domainXml.inactive).disks.map(({ target }) =>
    marked.includes(target)
      ? `<disk name='${escapeXml(target)}' checkpoint='bitmap' bitmap='${name}'/>`
      : `<disk name='${escapeXml(target)}' checkpoint='no'/>`,
  );
  return [
    `<domaincheckpoint><name>${name}</name><creationTime>${Math.floor(startedMs / 1000)}</creationTime>`,
    `<disks>${disks.join('')}</disks>${domainXml.inactive.replace(/^\s*<\?xml[^>]*\?>/, '')}</domaincheckpoint>`,
  ].join('');
}
