import type { BlobStore } from './blob-store.ts';

/**
 * Whether an upload of this key was begun and not finished. For who finds the key taken: an unfinished upload may be its
 * own, whose token it did not come to note; a finished blob under a name just chosen is somebody else's.
 */
export async function isUnfinished(store: BlobStore, key: string): Promise<boolean> {
  const folder = key.slice(0, key.lastIndexOf('/') + 1);
  for await (const upload of store.listUploads(folder)) if (upload.key === key) return true;
  return false;
}
