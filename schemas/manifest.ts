import { z } from 'zod';
import { sourceMark } from './source-mark.ts';
import { blobKey, diskTarget, uuid } from './names.ts';
import { repositoryEncryption } from './repository.ts';
import { validationResult } from './validation.ts';
import { backupType, consistency, fullReason, quiesceMode, strategy, validationState } from './states.ts';

/** Version of the manifest's shape; docs/repository-format.md lists the changes. */
export const MANIFEST_VERSION = 1;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** `file` is an age file for the repository's recipient, and the qcow2 file in it has `plainBytes`; repository/age-file.ts. */
export const diskEncryption = z.object({ format: z.literal('age'), plainBytes: z.int().nonnegative() });

/** A stored disk, without what may be about to take its place. */
const storedDisk = z.object({
  target: diskTarget,
  /** The n of the folder `disk-<n>`: the same for one disk all through a chain. */
  number: z.int().nonnegative(),
  serial: z.string().nullable(),
  /** Where the disk lay on the host, and in which format. */
  sourcePath: z.string().nullable(),
  sourceFormat: z.string(),
  sourceMark: sourceMark.optional(),
  virtualSizeBytes: z.int().nonnegative(),
  type: backupType,
  fullReason: fullReason.nullable(),
  file: blobKey,
  /** The file this one is layered on, for an incremental. */
  backingFile: blobKey.nullable(),
  /** Length of `file`. */
  storedBytes: z.int().nonnegative(),
  /** Absent: `file` is the qcow2 file itself. */
  encryption: diskEncryption.optional(),
  changedBytes: z.int().nonnegative(),
  readBytes: z.int().nonnegative(),
  clusterBytes: z.int().positive(),
  /** The list of SHA-256 sums of the file's segments, a blob beside it, itself covered by `sha256`. */
  sums: z.object({ file: blobKey, sha256, segments: z.int().nonnegative() }),
});

export const manifestDisk = storedDisk.extend({
  /**
   * While the file is swapped for another of the same guest's content: what holds of the other one. Which of the two lies
   * under `file` tells its length, which always differs. `temporary` is the key the other one comes from.
   */
  replacement: storedDisk.extend({ temporary: blobKey, compression: z.enum(['zstd', 'none']) }).optional(),
});
export type Replacement = NonNullable<ManifestDisk['replacement']>;
export type ManifestDisk = z.infer<typeof manifestDisk>;

/** A younger backup that was not built on, and why; `requested` when that was asked for. */
export const passedOver = z.object({ id: uuid, reason: fullReason });
export type PassedOver = z.infer<typeof passedOver>;

/** A small file kept with the backup: NVRAM variables, TPM state. `content` is base64. */
export const keptFile = z.object({
  kind: z.enum(['nvram', 'tpm']),
  /** Path on the host it came from. */
  path: z.string(),
  mode: z.int(),
  sha256,
  content: z.base64(),
});
export type KeptFile = z.infer<typeof keptFile>;

/** The run that took a backup, and what it went by. */
export const backupRun = z.object({
  workflowId: z.string(),
  runId: z.string(),
  /** What the VM was protected by; null = nothing. */
  offering: z.string().nullable(),
  tenant: z.string(),
  quiesce: quiesceMode,
  /** UTC, ISO 8601: when the host began, and when all disks were stored. */
  beganAt: z.iso.datetime(),
  endedAt: z.iso.datetime(),
});
export type BackupRun = z.infer<typeof backupRun>;

export const manifest = z.object({
  version: z.literal(MANIFEST_VERSION),
  id: uuid,
  vm: z.object({ uuid, name: z.string() }),
  type: backupType,
  parentId: uuid.nullable(),
  chainId: uuid.nullable(),
  position: z.int().positive().nullable(),
  isolated: z.boolean(),
  endOfChain: z.boolean(),
  /** UTC, ISO 8601. */
  instant: z.iso.datetime(),
  consistency,
  freezeMs: z.int().nonnegative().nullable(),
  /** How the point in time was made; since 0.3.0. */
  strategy: strategy.optional(),
  host: z.string(),
  source: z.object({ platform: z.string(), metadata: z.record(z.string(), z.string()) }),
  domainXml: z.object({ inactive: z.string(), live: z.string().nullable() }),
  checkpointXml: z.string().nullable(),
  files: z.array(keptFile),
  /** Why its parent is not the backup just before: those that were passed over, youngest first. */
  passedOver: z.array(passedOver).default([]),
  skippedDisks: z.array(z.object({ target: z.string(), reason: z.string() })),
  disks: z.array(manifestDisk),
  compression: z.enum(['zstd', 'none']),
  validation: validationState,
  /** What the last validation found; since 0.2.0. */
  validationResult: validationResult.optional(),
  /** Of a copy: where it was copied from, and when; since 0.3.0. */
  copiedFrom: z.object({ repositoryId: uuid, copiedAt: z.iso.datetime() }).optional(),
  requestedBy: z.string().nullable(),
  /** Since 0.3.0. */
  run: backupRun.optional(),
  /** By target: how often the copy of the disk was begun. */
  attempts: z.record(z.string(), z.int()),
  /** By target: segments that the last attempt took over from those before it; since 0.3.0. */
  resumedSegments: z.record(z.string(), z.int().nonnegative()).optional(),
  durationMs: z.int().nonnegative(),
  versions: z.record(z.string(), z.string()),
  /**
   * In an encrypted repository: what only the holder of an identity may read, an age file in base64. Beside it stands
   * something empty instead; see repository/sealed-manifest.ts.
   */
  sealed: z.base64().optional(),
});
export type Manifest = z.infer<typeof manifest>;

/** The installation that writes to a repository: there is one at a time, since each has its own admission. */
export const repositoryOwner = z.object({
  /** Id of its catalog. */
  installation: uuid,
  since: z.iso.datetime(),
  /** For people: where the repository was added from. */
  name: z.string().optional(),
  /** Whom it was taken over from. */
  former: uuid.optional(),
});
export type RepositoryOwner = z.infer<typeof repositoryOwner>;

/** `repository.json`, at the root. */
export const repositoryIdentity = z.object({
  id: uuid,
  formatVersion: z.literal(1),
  createdAt: z.iso.datetime(),
  /** Absent: plain. */
  encryption: repositoryEncryption.optional(),
  /** Absent: made before repositories had owners, and not added to an installation since. */
  owner: repositoryOwner.optional(),
});
export type RepositoryIdentity = z.infer<typeof repositoryIdentity>;
