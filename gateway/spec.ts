import { z } from 'zod';
import { diskEncryption } from '../schemas/manifest.ts';
import { blobKey, diskTarget, uuid } from '../schemas/names.ts';
import { repositoryRecord } from '../schemas/repository.ts';

/** A stored file as its manifest names it. */
const specFile = z.object({
  file: blobKey,
  storedBytes: z.int().nonnegative(),
  encryption: diskEncryption.optional(),
  sums: z.object({ file: blobKey, sha256: z.string().regex(/^[0-9a-f]{64}$/), segments: z.int().nonnegative() }),
});

/** What a gateway process serves. It holds no secrets: keys and credentials are found by the references in `repository`. */
export const gatewaySpec = z.object({
  version: z.literal(1),
  id: uuid,
  repository: repositoryRecord,
  disks: z
    .array(
      z.object({
        target: diskTarget,
        socketPath: z.string().startsWith('/'),
        virtualSizeBytes: z.int().nonnegative(),
        /** Base first. */
        files: z.array(specFile).min(1),
      }),
    )
    .min(1),
  /** Who may connect besides root. */
  owner: z.object({ uid: z.int(), gid: z.int() }).nullable(),
  cacheBytes: z.int().positive(),
  /** Room on the host's disk for what was fetched from another machine, at most. Absent: none. */
  diskCacheBytes: z.int().nonnegative().optional(),
});
export type GatewaySpec = z.infer<typeof gatewaySpec>;

/** Memory for what was read and decoded. Four readers that go from front to back have 24 MiB each. */
export const CACHE_BYTES = 96 * 1024 * 1024;

/** A guest that starts and works for a while reads much less. */
export const DISK_CACHE_BYTES = 10 * 1024 * 1024 * 1024;
