import { z } from 'zod';
import { plainName, uuid } from './names.ts';

/**
 * Where a secret is found on the machine that needs it, never the secret itself: a file that its owner alone may read, or
 * the name of an environment variable of the worker.
 */
export const secretReference = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('file'), path: z.string().startsWith('/') }),
  z.object({ kind: z.literal('env'), name: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/) }),
]);
export type SecretReference = z.infer<typeof secretReference>;

/**
 * How a host gets its keys for an S3 server. `chain`: as any other AWS tool does (environment, profile, container, instance).
 * `file`: an INI file like ~/.aws/credentials.
 */
export const s3Credentials = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('chain'), profile: z.string().nullable().default(null) }),
  z.object({
    kind: z.literal('file'),
    path: z.string().startsWith('/'),
    profile: z.string().nullable().default(null),
  }),
]);
export type S3Credentials = z.infer<typeof s3Credentials>;

export const directoryPlace = z.object({ kind: z.literal('directory'), path: z.string().startsWith('/') });

/** Names of buckets: 3 to 63 characters. Source: Amazon S3 user guide, "General purpose bucket naming rules". */
const bucketName = z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/);

export const s3Place = z.object({
  kind: z.literal('s3'),
  bucket: bucketName,
  /** Folder in the bucket, without "/" at its ends; "" is the whole bucket. */
  prefix: z.string().regex(/^$|^(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)*$/),
  /** Address of the server; null = Amazon's for the region. Keys have no place in it: it is shown and travels in history. */
  endpoint: z
    .url({ protocol: /^https?$/ })
    .refine((text) => /^[^@?#]*$/.test(text))
    .nullable()
    .default(null),
  region: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/)
    .default('us-east-1'),
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. */
  pathStyle: z.boolean().default(false),
  /** PEM file with the certificates that the server's is checked against; null = Node's own list. */
  caFile: z.string().startsWith('/').nullable().default(null),
  credentials: s3Credentials.default({ kind: 'chain', profile: null }),
});
export type S3Place = z.infer<typeof s3Place>;

/** Where a repository's bytes lie. Holds no secrets: it travels in workflow history. */
export const repositoryLocation = z.discriminatedUnion('kind', [directoryPlace, s3Place]);
export type RepositoryLocation = z.infer<typeof repositoryLocation>;

/** An X25519 public key of age(1). */
export const ageRecipient = z
  .string()
  .regex(/^age1[02-9ac-hj-np-z]{58}$/, { message: 'must be a recipient like age1…' });

/** How the files of a repository are encrypted; docs/repository-format.md, "Encryption". */
export const repositoryEncryption = z.object({
  format: z.literal('age'),
  /** The repository's own public key, `age1…`; what it opens lies in `keys/`, encrypted to the operators' recipients. */
  recipient: ageRecipient,
  /** Manifests keep names, paths and definitions to those who hold an identity. */
  hideNames: z.boolean().default(false),
  /** Its recipients before a rotation, newest first: what was begun with one of them may still be finished. */
  former: z.array(ageRecipient).optional(),
});
export type RepositoryEncryption = z.infer<typeof repositoryEncryption>;

/** Objects that cannot be removed before a date. */
export const immutability = z.object({
  mode: z.enum(['governance', 'compliance']),
  /** For how long, at least, from the backup's instant on; living descendants make it longer. */
  days: z.int().positive().max(36_500),
});
export type Immutability = z.infer<typeof immutability>;

/** What was promised for a repository when it was added, or since. */
export const repositorySettings = z.object({
  encryption: repositoryEncryption.nullable().default(null),
  /** Where hosts find an age identity that opens the repository; null = none of them can restore or validate from it. */
  identity: secretReference.nullable().default(null),
  immutability: immutability.nullable().default(null),
  /** Id of the installation whose repository this is, as `repository.json` has it; null = added before there were owners. */
  owner: uuid.nullable().default(null),
});
export type RepositorySettings = z.infer<typeof repositorySettings>;

export const repositoryRecord = z.object({
  name: plainName,
  id: uuid,
  location: repositoryLocation,
  /** How many operations may use it at once. */
  slots: z.int().positive(),
  createdAt: z.iso.datetime(),
  /** Absent: nothing beyond the defaults. See `settingsOf`. */
  settings: repositorySettings.optional(),
});
export type RepositoryRecord = z.infer<typeof repositoryRecord>;

/** What was promised for a repository, with all defaults. */
export const settingsOf = ({ settings }: Pick<RepositoryRecord, 'settings'>): RepositorySettings =>
  settings ?? { encryption: null, identity: null, immutability: null, owner: null };

/** The place in words for people: a path, or `s3://bucket/prefix at https://…`. */
export function placeText(location: RepositoryLocation): string {
  if (location.kind === 'directory') return location.path;
  const address = `s3://${location.bucket}${location.prefix === '' ? '' : `/${location.prefix}`}`;
  return location.endpoint === null ? address : `${address} at ${location.endpoint}`;
}
