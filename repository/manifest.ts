import { manifest, MANIFEST_VERSION } from '../schemas/manifest.ts';
import type { Manifest } from '../schemas/manifest.ts';
import type { BlobStore } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import { checkChainFiles } from './check-chain.ts';
import { encodeJson, readJson } from './json-blob.ts';
import { manifestFolder, manifestKey, parseManifestKey, sumsKey } from './layout.ts';
import { presentManifest } from './present-manifest.ts';
import { RepositoryError } from './repository-error.ts';

/** Manifests that are read at once when they are listed: a server elsewhere takes some milliseconds for each. */
const READS_AT_ONCE = 16;

/** Domain XML, NVRAM and TPM state are the bulk; TPM state has hundreds of KiB. */
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;

/**
 * What holds of a backup now: of a file that is being swapped, what is true of the one that is there.
 * @throws RepositoryError `invalid`, `unsupported-version`; BlobStoreError `not-found`, …
 */
export const readManifest = (store: BlobStore, vmUuid: string, backupId: string): Promise<Manifest> =>
  readManifestAt(store, manifestKey(vmUuid, backupId));

/** As it is stored, swaps that are not finished included: for those who finish them. */
export const readStoredManifest = (store: BlobStore, vmUuid: string, backupId: string): Promise<Manifest> =>
  readStoredAt(store, manifestKey(vmUuid, backupId));

const readManifestAt = async (store: BlobStore, key: string): Promise<Manifest> =>
  await presentManifest(store, await readStoredAt(store, key));

async function readStoredAt(store: BlobStore, key: string): Promise<Manifest> {
  const read = await readJson(store, key, manifest, {
    field: 'version',
    known: MANIFEST_VERSION,
    maxBytes: MAX_MANIFEST_BYTES,
  });
  if (manifestKey(read.vm.uuid, read.id) !== key) {
    throw new RepositoryError('invalid', key, `vm.uuid and id belong to ${manifestKey(read.vm.uuid, read.id)}`);
  }
  return read;
}

/**
 * Publishes a backup: from here on it is listed. All its files must be finished; their sizes are looked at once more.
 * Repeatable with the same content; durable when it returns. Returns the manifest's key.
 * @throws RepositoryError `invalid` when a file it names is not there whole; BlobStoreError `exists` when the backup
 *   was published with other content
 */
export async function createManifest(store: BlobStore, content: Manifest): Promise<string> {
  const key = manifestKey(content.vm.uuid, content.id);
  const bytes = encodeJson(manifest.parse(content));
  const stored = content.disks.map((disk) => ({ key: disk.file, storedBytes: disk.storedBytes }));
  const [problem] = await checkChainFiles(store, stored);
  if (problem) {
    throw new RepositoryError(
      'invalid',
      problem.key,
      `is ${problem.problem}: ${problem.foundBytes ?? 0} of ${problem.expectedBytes} bytes; backup ${content.id} is not published`,
    );
  }
  for (const needed of content.disks.flatMap((disk) => [disk.sums.file, disk.backingFile ?? []].flat())) {
    if (!(await store.statBlob(needed))) {
      throw new RepositoryError('invalid', needed, `is missing; backup ${content.id} is not published`);
    }
  }
  await store.putBlob(key, bytes);
  return key;
}

/** Swaps the manifest of a published backup, whole: its state changed, not its data. */
export async function replaceManifest(store: BlobStore, content: Manifest): Promise<void> {
  const bytes = encodeJson(manifest.parse(content));
  await store.putBlob(manifestKey(content.vm.uuid, content.id), bytes, { replace: true });
}

/**
 * Reads a published manifest, changes it and swaps it whole. For a caller that is admitted to the chain: two who change the
 * same manifest at once would lose one change.
 */
export async function changeManifest(
  store: BlobStore,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
  change: (before: Manifest) => Manifest,
): Promise<void> {
  const before = await readStoredManifest(store, vmUuid, backupId);
  const after = change(before);
  if (after.sealed !== before.sealed) throw new RangeError(`backup ${backupId}: its sealed part is not to be changed`);
  await replaceManifest(store, after);
}

/** Withdraws a backup before its files go. Success when it is not there. */
export const deleteManifest = (store: BlobStore, vmUuid: string, backupId: string): Promise<void> =>
  store.deleteBlob(manifestKey(vmUuid, backupId));

/** One damaged manifest does not hide the others: it comes with its error. */
export type ListedManifest = { key: string; vmUuid: string; backupId: string } & (
  { manifest: Manifest; error?: never } | { manifest?: never; error: RepositoryError }
);

/**
 * All published backups, of one VM or of all, sorted by VM and id.
 * @throws BlobStoreError when the repository cannot be read; a manifest deleted meanwhile is left out
 */
export const listManifests = (store: BlobStore, vmUuid?: string): AsyncGenerator<ListedManifest> =>
  listManifestsBy(readManifestAt, store, vmUuid);

/** The same as they are stored, swaps that are not finished included. */
export const listStoredManifests = (store: BlobStore, vmUuid?: string): AsyncGenerator<ListedManifest> =>
  listManifestsBy(readStoredAt, store, vmUuid);

/** Every file that a stored manifest needs or names, itself not among them; also of a swap that is not finished. */
export const filesNamedBy = ({ disks }: Manifest): string[] =>
  disks
    .flatMap((disk) => [disk, ...(disk.replacement === undefined ? [] : [disk.replacement])])
    .flatMap((disk) => [
      ...[disk.file, sumsKey(disk.file), disk.sums.file],
      ...(disk.backingFile === null ? [] : [disk.backingFile, sumsKey(disk.backingFile)]),
      ...('temporary' in disk ? [disk.temporary, sumsKey(disk.temporary)] : []),
    ]);

async function* listManifestsBy(
  readAt: (store: BlobStore, key: string) => Promise<Manifest>,
  store: BlobStore,
  vmUuid: string | undefined,
): AsyncGenerator<ListedManifest> {
  let keys: string[] = [];
  for await (const { key } of store.listBlobs(vmUuid === undefined ? '' : manifestFolder(vmUuid))) {
    if (parseManifestKey(key) === undefined) continue;
    keys.push(key);
    if (keys.length < READS_AT_ONCE) continue;
    yield* await readTogether(readAt, store, keys);
    keys = [];
  }
  yield* await readTogether(readAt, store, keys);
}

/** Those that were deleted meanwhile are left out. */
async function readTogether(
  readAt: (store: BlobStore, key: string) => Promise<Manifest>,
  store: BlobStore,
  keys: readonly string[],
): Promise<ListedManifest[]> {
  const read = await Promise.all(
    keys.map(async (key): Promise<ListedManifest[]> => {
      const ids = parseManifestKey(key);
      if (ids === undefined) return [];
      try {
        return [{ key, ...ids, manifest: await readAt(store, key) }];
      } catch (error) {
        if (error instanceof RepositoryError) return [{ key, ...ids, error }];
        if (!(error instanceof BlobStoreError)) throw error;
        if (error.code === 'not-found') return [];
        if (error.code !== 'too-large') throw error;
        return [{ key, ...ids, error: new RepositoryError('invalid', key, 'is too long', { cause: error }) }];
      }
    }),
  );
  return read.flat();
}
