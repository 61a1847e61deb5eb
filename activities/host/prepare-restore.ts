import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseDomainXml, type DomainDefinition } from '../../libvirt/domain-xml.ts';
import { LibvirtError } from '../../libvirt/errors.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import {
  takesIdentity,
  type DiskToRestore,
  type PreparedRestore,
  type RestorePlan,
  type RestorePreview,
} from '../../schemas/restore-plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { attachedFileName, freeTarget } from './attach-targets.ts';
import type { HostDependencies } from './dependencies.ts';
import { unlessHostFull } from './host-full.ts';
import { folderOf, unusedPath } from './new-disk-place.ts';
import { powerOf } from './power.ts';
import { fileId } from './publish-file.ts';
import { diskOfFile, filesOfDisk, requireFiles, type ManifestChain } from './restore-chain.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { openRestoreSource } from './restore-source.ts';
import { neededBytesOf, requireSpace } from './restore-space.ts';
import {
  formatOf,
  formerPathOf,
  targetsInPlace,
  targetsOfNewVm,
  targetsWhereTheyWere,
  type RestoreTarget,
} from './restore-targets.ts';
import { sharedMacs } from './shared-macs.ts';
import { createSwapDisks } from './swap-disks.ts';

type Place = Pick<PreparedRestore, 'vm'> & {
  present: Domain | undefined;
  targets: (RestoreTarget & Pick<DiskToRestore, 'attachAs'>)[];
  untouched: { target: string; path: string | null }[];
  warnings: string[];
};
/** Tells of a reason why the restore cannot be; what else can be looked at still is. */
type Refuse = (reason: HoldfastError) => void;

export const createPrepareRestore = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, restores } = dependencies;
  const swaps = createSwapDisks(dependencies);

  return {
    /**
     * Checks all that can be checked before the first byte: the backup's files, the VM's state, which disk goes where,
     * and the space for them. Changes nothing but the host's own notes, and makes the folders of new disks.
     * @throws BackupFileMissing, IntegrityMismatch, RepositoryNotOnHost, VmNotStopped, VmNameTaken, VmUuidTaken,
     * DiskMismatch, DestinationExists, DestinationFull, HostFull
     */
    async prepareRestore(plan: RestorePlan): Promise<PreparedRestore> {
      return await withHeartbeat('checking the restore', async () => {
        const noted = await restores.read(plan.restoreId);
        if (noted !== undefined) return noted.prepared;
        if (takesIdentity(plan)) await undoEndedRestores(plan);
        const { prepared } = await look(plan, (reason) => {
          throw reason;
        });
        for (const { path } of prepared.disks) await mkdir(dirname(path), { recursive: true, mode: 0o711 });
        await restores.write(plan.restoreId, { plan, prepared, phase: 'writing' }).catch((error: unknown) => {
          throw unlessHostFull(error, host, prepared.vm.name);
        });
        return prepared;
      });
    },

    /** What the restore would do, and why it would be refused now. Changes nothing. @throws as prepareRestore */
    async previewRestore(plan: RestorePlan): Promise<RestorePreview> {
      return await withHeartbeat('checking the restore', async () => {
        const refused: string[] = [];
        const { prepared, chain } = await look(plan, ({ message }) => void refused.push(message));
        return {
          dryRun: true,
          vm: prepared.vm,
          host,
          isNew: prepared.define,
          disks: prepared.disks.map((disk) => ({
            target: disk.attachAs ?? disk.target,
            action: disk.isNew !== true ? 'replaced' : disk.attachAs == null ? 'created' : 'created and added',
            path: disk.path,
            format: disk.format,
            virtualSizeBytes: disk.virtualSizeBytes,
            writtenBytes: neededBytesOf(disk, chain),
          })),
          untouched: prepared.untouched ?? [],
          warnings: prepared.warnings ?? [],
          refused,
        };
      });
    },
  };

  /** The VM is ours alone: what another restore noted of it was left by a run that was ended by force. */
  async function undoEndedRestores(plan: RestorePlan): Promise<void> {
    for (const { id } of await restores.list()) {
      const other = await restores.read(id);
      if (id === plan.restoreId || other?.prepared.vm.uuid !== plan.vm.uuid || other.phase === 'swapped') continue;
      await swaps.undoRestore(other.plan);
    }
  }

  async function look(plan: RestorePlan, refuse: Refuse): Promise<{ prepared: PreparedRestore; chain: ManifestChain }> {
    const signal = cancellationSignal();
    const { store, manifest, chain } = await openRestoreSource(dependencies, plan);
    const { vm, present, targets, untouched, warnings } = await placeFor(plan, manifest, refuse, signal);
    const disks = targets.map((target) => toRestore(target, { chain, plan, isNew: present === undefined }));
    await requireFiles(
      store,
      disks.flatMap((disk) => disk.chain.map((file) => diskOfFile(chain, file))),
    );
    if (present === undefined) await told(refuse, () => requireUnused(disks, signal));
    await told(refuse, () => requireSpace(disks, chain));
    return {
      prepared: {
        vm,
        define: present === undefined,
        disks,
        untouched,
        warnings: [...(plan.warnings ?? []), ...warnings],
      },
      chain,
    };
  }

  async function placeFor(plan: RestorePlan, manifest: Manifest, refuse: Refuse, signal: AbortSignal): Promise<Place> {
    const name = plan.as ?? plan.vm.name;
    const namesake = await libvirt.lookupByName(name, { signal });
    const present = takesIdentity(plan) ? await libvirt.lookupByUuid(plan.vm.uuid, { signal }) : undefined;
    if (plan.as !== null) {
      if (namesake !== undefined) refuse(nameTaken(name, namesake));
      if (present !== undefined) refuse(uuidTaken(present));
      const uuid = takesIdentity(plan) ? plan.vm.uuid : randomUUID();
      const warnings = plan.keepMacs === true ? await sharedMacs(libvirt, manifest, { signal }) : [];
      const targets = targetsOfNewVm(manifest, name).map((target) => ({ ...target, attachAs: null }));
      return { vm: { uuid, name }, present: undefined, targets, untouched: [], warnings };
    }
    if (present !== undefined) return await placeInPlace(plan, manifest, present, refuse, signal);
    if (namesake !== undefined) refuse(nameTaken(name, namesake));
    if (plan.disks != null) {
      throw new HoldfastError(
        'VmNotFound',
        `VM ${name} is gone: restore it whole, or give the disk to another VM with --to-vm`,
      );
    }
    const targets = targetsWhereTheyWere(manifest).map((target) => ({ ...target, attachAs: null }));
    return { vm: plan.vm, present, targets, untouched: [], warnings: [] };
  }

  async function placeInPlace(
    plan: RestorePlan,
    manifest: Manifest,
    present: Domain,
    refuse: Refuse,
    signal: AbortSignal,
  ): Promise<Place> {
    await requireRestorable(present, refuse, signal);
    const definition = parseDomainXml(await libvirt.domainXml(present, { inactive: true }, { signal }));
    const found = targetsInPlace(manifest, definition, plan.disks ?? null, await sizesOf(present, definition, signal));
    const added: { target: RestoreTarget & { attachAs: string }; warning: string[] }[] = [];
    for (const disk of found.gone) {
      added.push(
        await madeAnew(
          disk,
          manifest,
          definition,
          plan,
          added.map(({ target }) => target),
        ),
      );
    }
    return {
      vm: { uuid: present.uuid, name: present.name },
      present,
      targets: [
        ...found.present.map((target) => ({ ...target, attachAs: null })),
        ...added.map(({ target }) => target),
      ],
      untouched: found.untouched.map(({ target, sourcePath }) => ({ target, path: sourcePath })),
      warnings: [...found.present.flatMap(moved), ...added.flatMap(({ warning }) => warning)],
    };
  }

  /** What the guest sees of each disk, in bytes; without those whose image cannot be read. */
  async function sizesOf(
    domain: Domain,
    { disks }: DomainDefinition,
    signal: AbortSignal,
  ): Promise<Map<string, number>> {
    const sizes = new Map<string, number>();
    for (const { target, empty } of disks) {
      if (empty) continue;
      const info = await libvirt.blockInfo(domain, target, { signal }).catch((error: unknown) => {
        if (error instanceof LibvirtError) return undefined; // its file is gone, say
        throw error;
      });
      if (info !== undefined) sizes.set(target, info.capacityBytes);
    }
    return sizes;
  }

  /** A disk the VM has no more: at its old place and target if they are free, else beside, under another. */
  async function madeAnew(
    disk: ManifestDisk,
    manifest: Manifest,
    vm: DomainDefinition,
    plan: RestorePlan,
    others: readonly (RestoreTarget & { attachAs: string })[],
  ): Promise<{ target: RestoreTarget & { attachAs: string }; warning: string[] }> {
    const original = parseDomainXml(manifest.domainXml.inactive).disks.find(({ target }) => target === disk.target);
    const format = formatOf(disk.sourceFormat);
    const taken = [...vm.disks, ...others.map(({ attachAs }) => ({ target: attachAs }))];
    const attachAs = freeTarget(vm.name, taken, {
      bus: original?.bus ?? 'virtio',
      wanted: disk.target,
      isAsked: false,
    });
    const former = formerPathOf(disk);
    const isFree =
      former !== undefined && (await fileId(former)) === undefined && !others.some(({ path }) => path === former);
    const path = isFree
      ? former
      : await unusedPath(
          former === undefined ? folderOf([vm]) : dirname(former),
          attachedFileName(plan.vm.name, disk.target, plan.backupId, format),
        );
    return {
      target: { disk, path, format, attachAs },
      warning: [
        ...(attachAs === disk.target
          ? []
          : [
              `disk ${disk.target} of the backup is added as ${attachAs}: VM ${vm.name} has another disk ${disk.target}`,
            ]),
        ...(isFree || former === undefined
          ? []
          : [`disk ${disk.target} goes to ${path}: at ${former} lies another file`]),
      ],
    };
  }

  function nameTaken(name: string, namesake: Domain): HoldfastError {
    const message = `host ${host} has a VM ${name} already (${namesake.uuid}); choose another name`;
    return new HoldfastError('VmNameTaken', message);
  }

  function uuidTaken(present: Domain): HoldfastError {
    const message = `host ${host} has VM ${present.name} with the UUID ${present.uuid}; leave --keep-uuid away, or undefine it first`;
    return new HoldfastError('VmUuidTaken', message);
  }

  async function requireRestorable(domain: Domain, refuse: Refuse, signal: AbortSignal): Promise<void> {
    const { state } = await libvirt.state(domain, { signal });
    if (powerOf(state) !== 'shutoff') {
      refuse(
        new HoldfastError('VmNotStopped', `VM ${domain.name} is ${state}; stop it before it is restored in place`),
      );
    }
    if (await libvirt.hasManagedSave(domain, { signal })) {
      refuse(
        new HoldfastError(
          'VmNotStopped',
          `VM ${domain.name} was stopped with its memory saved, which does not go with restored disks; start it and shut it ` +
            `down, or drop what is saved: virsh managedsave-remove ${domain.name}`,
        ),
      );
    }
    const snapshots = await libvirt.snapshotList(domain, { signal });
    if (snapshots.length > 0) {
      refuse(
        new HoldfastError(
          'DiskMismatch',
          `VM ${domain.name} has snapshots that a restore would lose: ${snapshots.join(', ')}; delete them, or use --as`,
        ),
      );
    }
  }

  function toRestore(
    { disk, path, format, attachAs }: Place['targets'][number],
    { chain, plan, isNew }: { chain: ManifestChain; plan: RestorePlan; isNew: boolean },
  ): DiskToRestore {
    return {
      target: disk.target,
      chain: filesOfDisk(chain, plan.backupId, disk.target),
      virtualSizeBytes: disk.virtualSizeBytes,
      path,
      besidePath: `${path}.holdfast-${plan.restoreId}`,
      formerPath: `${path}.former-${plan.restoreId}`,
      format,
      isNew: isNew || attachAs != null,
      attachAs: attachAs ?? null,
    };
  }

  /** A VM that is not defined here owns no file: what lies at its paths is somebody's. */
  async function requireUnused(disks: DiskToRestore[], signal: AbortSignal): Promise<void> {
    for (const { path } of disks) {
      if ((await fileId(path)) === undefined) continue;
      const user = await userOf(path, signal);
      throw new HoldfastError(
        'DestinationExists',
        `${path} exists${user === undefined ? '' : ` and belongs to VM ${user}`}; move it away, or restore under another name`,
      );
    }
  }

  async function userOf(path: string, signal: AbortSignal): Promise<string | undefined> {
    for (const domain of await libvirt.listDomains({ signal })) {
      const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
      if (disks.some(({ sourcePath }) => sourcePath === path)) return domain.name;
    }
    return undefined;
  }
};

/** Taken for the backup's disk by its target alone. */
const moved = ({ disk, path }: RestoreTarget): string[] =>
  disk.serial !== null || disk.sourcePath === null || disk.sourcePath === path
    ? []
    : [`disk ${disk.target} lay at ${disk.sourcePath} when it was backed up, and is replaced at ${path}`];

async function told(refuse: Refuse, check: () => Promise<void>): Promise<void> {
  await check().catch((error: unknown) => {
    if (!(error instanceof HoldfastError)) throw error;
    refuse(error);
  });
}
