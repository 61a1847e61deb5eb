import { bandwidth, type Bandwidth } from '../schemas/bandwidth.ts';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { encodeJson, readJson } from './json-blob.ts';

/** Where the limit lies in a repository; docs/repository-format.md, "Layout". */
const BANDWIDTH_FILE = 'bandwidth.json';
const MAX_BYTES = 65_536;

/** undefined: the repository has none. @throws RepositoryError `invalid`; BlobStoreError */
export async function readBandwidth(store: BlobStore): Promise<Bandwidth | undefined> {
  return await readJson(store, BANDWIDTH_FILE, bandwidth, { field: 'version', known: 1, maxBytes: MAX_BYTES }).catch(
    (error: unknown) => {
      if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
      throw error;
    },
  );
}

/** `undefined` takes the limit away. Hosts see it within seconds, copies that run included. */
export async function writeBandwidth(store: BlobStore, limit: Bandwidth | undefined): Promise<void> {
  if (limit === undefined) await store.deleteBlob(BANDWIDTH_FILE);
  else await store.putBlob(BANDWIDTH_FILE, encodeJson(bandwidth.parse(limit)), { replace: true });
}
