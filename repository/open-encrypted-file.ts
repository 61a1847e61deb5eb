import type { ManifestDisk } from '../schemas/manifest.ts';
import { AGE_HEAD_BYTES, AgeError } from './age-file.ts';
import { openAgeHead } from './age-head.ts';
import type { BlobStore } from './blob-store.ts';
import { RepositoryError } from './repository-error.ts';
import { keyErrorOf, type RepositoryKeys } from './repository-keys.ts';
import { openSource } from './source.ts';

/**
 * What it takes to read a stored disk: the key of its chunks; undefined where the file is not encrypted. Reads the file's
 * head and nothing else.
 * @param keys null where there are none
 * @throws RepositoryError `key-missing`, `key-wrong`, `invalid`; BlobStoreError
 */
export async function openEncryptedFile(
  store: BlobStore,
  { file, encryption }: Pick<ManifestDisk, 'file' | 'encryption'>,
  keys: RepositoryKeys | null,
): Promise<{ payloadKey: Uint8Array; plainBytes: number } | undefined> {
  if (encryption === undefined) return undefined;
  if (keys === null)
    throw new RepositoryError('key-missing', file, 'is encrypted, and there is no identity to open it');
  await using source = await openSource(store.source(file));
  const head = Buffer.alloc(AGE_HEAD_BYTES);
  const count = await source.read(0, head);
  const payloadKey = await openAgeHead(head.subarray(0, count), keys.identities).catch((error: unknown) => {
    throw error instanceof AgeError ? keyErrorOf(error, file, "the repository's keys") : error;
  });
  return { payloadKey, plainBytes: encryption.plainBytes };
}
