import { listManifests, readManifest, type ListedManifest } from '../repository/manifest.ts';
import { parseManifestKey } from '../repository/layout.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { Manifest } from '../schemas/manifest.ts';
import { uuid } from '../schemas/names.ts';
import { openedManifest, type OpenPlace } from './open-place.ts';

/** A manifest that cannot be read: of the backup no more is known than this. */
export interface DamagedBackup {
  id: string;
  vm: { uuid: string; name: null };
  state: 'Error';
  /** Key of the manifest. */
  file: string;
  damage: string;
}

export interface StoredBackups {
  /** Newest first; without kept files and sealed parts, which of ten thousand backups would not fit into memory. */
  manifests: Manifest[];
  /** Those that may be of the VM that is asked for. */
  damaged: DamagedBackup[];
}

/**
 * What the repository's manifests tell, of one VM or of all.
 * @param vm name or UUID; by UUID only that VM's manifests are read
 */
export async function listStored(place: OpenPlace, vm?: string): Promise<StoredBackups> {
  const isUuid = uuid.safeParse(vm).success;
  const manifests: Manifest[] = [];
  const damaged: DamagedBackup[] = [];
  for await (const listed of listManifests(place.store, isUuid ? vm : undefined)) {
    if (listed.manifest === undefined) {
      damaged.push(damagedBackup(listed, listed.error));
      continue;
    }
    const opened = await openedManifest(place, listed.manifest).catch((error: unknown) => {
      if (!(error instanceof RepositoryError)) throw error;
      damaged.push(damagedBackup(listed, error)); // its sealed part is altered, or of other keys
    });
    if (opened) manifests.push(withoutBulk(opened));
  }
  manifests.sort((one, other) => other.instant.localeCompare(one.instant));
  if (vm === undefined || isUuid) return { manifests, damaged };
  const others = new Set(manifests.filter(({ vm: { name } }) => name !== vm).map((each) => each.vm.uuid));
  const wanted = manifests.filter(({ vm: { name } }) => name === vm);
  for (const { vm: named } of wanted) others.delete(named.uuid); // it bore another name once
  return { manifests: wanted, damaged: damaged.filter((each) => !others.has(each.vm.uuid)) };
}

function withoutBulk(manifest: Manifest): Manifest {
  const { sealed: _, ...rest } = manifest;
  return { ...rest, files: [] };
}

function damagedBackup({ key, vmUuid, backupId }: ListedManifest, error: Error): DamagedBackup {
  return { id: backupId, vm: { uuid: vmUuid, name: null }, state: 'Error', file: key, damage: error.message };
}

/**
 * The backup that is meant.
 * @param id its id, a beginning of it, or `latest`: the youngest of `vm`, or of the only VM there is
 * @throws HoldfastError BackupNotFound, VmAmbiguous; RepositoryError `invalid` when its own manifest is damaged
 */
export async function findStored(
  place: OpenPlace,
  { id, vm }: { id: string; vm?: string | undefined },
): Promise<{ manifest: Manifest; warnings: string[] }> {
  if (id === 'latest') return await findLatest(place, vm);
  const found: { vmUuid: string; backupId: string }[] = [];
  for await (const { key } of place.store.listBlobs('')) {
    const ids = parseManifestKey(key);
    if (ids?.backupId.startsWith(id) === true) found.push(ids);
  }
  const [only, ...others] = found;
  if (only === undefined) {
    throw new HoldfastError(
      'BackupNotFound',
      `${place.place} has no backup ${id}; see: holdfast backup ls --from REPOSITORY`,
    );
  }
  if (others.length > 0) {
    const ids = found.map(({ backupId }) => backupId).join(', ');
    throw new HoldfastError('BackupNotFound', `${id} begins several backups: ${ids}`);
  }
  return { manifest: await readWhole(place, only), warnings: [] };
}

const readWhole = async (
  place: OpenPlace,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
): Promise<Manifest> => await openedManifest(place, await readManifest(place.store, vmUuid, backupId));

async function findLatest(
  place: OpenPlace,
  vm: string | undefined,
): Promise<{ manifest: Manifest; warnings: string[] }> {
  const { manifests, damaged } = await listStored(place, vm);
  const vms = new Map(manifests.map((manifest) => [manifest.vm.uuid, manifest.vm.name]));
  if (vms.size > 1) {
    const names = [...vms].map(([each, name]) => `${name} (${each})`).join(', ');
    throw new HoldfastError('VmAmbiguous', `latest: ${place.place} has backups of ${names}; choose one with --vm`);
  }
  const [newest] = manifests;
  if (newest === undefined) {
    const whose = vm === undefined ? '' : ` of VM ${vm}`;
    throw new HoldfastError(
      'BackupNotFound',
      `${place.place} has no backup${whose} whose manifest can be read` +
        (damaged.length === 0 ? '' : `; damaged: ${damaged.map(({ file }) => file).join(', ')}`),
    );
  }
  return {
    manifest: await readWhole(place, { vmUuid: newest.vm.uuid, backupId: newest.id }),
    warnings: damaged.map(
      ({ file, damage }) => `a younger backup may be hidden by a damaged manifest, ${file}: ${damage}`,
    ),
  };
}
