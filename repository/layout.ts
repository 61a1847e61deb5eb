import { BlobStoreError } from './blob-store.ts';
import type { BackupType } from '../schemas/states.ts';
import { blobKey, fileName, uuid } from '../schemas/names.ts';

/**
 * Where things lie in a repository; docs/repository-format.md, "Layout", says it in words. All keys are relative to the
 * repository, with "/" between segments.
 */
export const REPOSITORY_FILE = 'repository.json';
/** Identities that open the repository's files, encrypted to the operators' recipients; an age file. */
export const KEY_FILE = 'keys/identity.age';
/** The operators' recipients, to be read by people. */
export const RECIPIENTS_FILE = 'keys/recipients.txt';

/** @throws BlobStoreError `invalid-key` for all that is not a relative key of plain, visible names. */
export function checkKey(key: string): string {
  if (!blobKey.safeParse(key).success || !key.split('/').every((segment) => fileName.safeParse(segment).success)) {
    throw new BlobStoreError('invalid-key', `not a key of a repository: ${JSON.stringify(key.slice(0, 200))}`, { key });
  }
  return key;
}

/** `<vm-uuid>/`, with all that belongs to one VM. */
export const vmFolder = (vmUuid: string): string => `${uuid.parse(vmUuid)}/`;

/** `<vm-uuid>/disk-<n>/`: one folder per disk, so that backing file names need no path. */
export function diskFolder(vmUuid: string, diskNumber: number): string {
  if (!Number.isSafeInteger(diskNumber) || diskNumber < 0) {
    throw new BlobStoreError('invalid-key', `not the number of a disk: ${diskNumber}`);
  }
  return `${vmFolder(vmUuid)}disk-${diskNumber}/`;
}

/** Seconds of UTC as in file names: `20261121-120000`. @param instant ISO 8601, or a Date */
export const utcStamp = (instant: string | Date): string =>
  new Date(instant).toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');

/** What is added to the name of a file that is encrypted: age(1) has the same custom. */
const AGE_SUFFIX = '.age';
/** The key of a disk's file where it is encrypted; `key` is that of the plain one. */
export const encryptedKey = (key: string): string => `${key}${AGE_SUFFIX}`;

/** The other way round: the key that it would have if it were not encrypted. */
export const plainKey = (key: string): string => (key.endsWith(AGE_SUFFIX) ? key.slice(0, -AGE_SUFFIX.length) : key);

/** `<vm-uuid>/disk-<n>/full-20261121-120000.qcow2`, or `incr-…` for an incremental; with `.age` where it is encrypted. */
export const diskFileKey = (file: {
  vmUuid: string;
  diskNumber: number;
  type: BackupType;
  instant: string | Date;
  isEncrypted?: boolean;
}): string =>
  `${diskFolder(file.vmUuid, file.diskNumber)}${file.type === 'full' ? 'full' : 'incr'}-${utcStamp(file.instant)}.qcow2` +
  (file.isEncrypted === true ? AGE_SUFFIX : '');

/** The list of segment sums beside a disk's file. */
export const sumsKey = (diskFile: string): string => `${diskFile}.sums`;

/** Where a file is rewritten before it takes the place of the one under `diskFile`; its owner is an operation's id. */
export const rewriteKey = (diskFile: string, operationId: string): string =>
  `${diskFile}.rewrite-${uuid.parse(operationId)}`;
/** The operation that a file in rewriting, or its sums, belongs to; undefined for other keys. */
export const rewriterOf = (key: string): string | undefined => REWRITE.exec(key)?.[1];
const REWRITE = /\.rewrite-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.sums)?$/;

export const manifestFolder = (vmUuid: string): string => `${vmFolder(vmUuid)}backups/`;
export const manifestKey = (vmUuid: string, backupId: string): string =>
  `${manifestFolder(vmUuid)}${uuid.parse(backupId)}.json`;

/** Screenshot that proves a validation. */
export const validationKey = (
  vmUuid: string,
  backupId: string,
  { isEncrypted = false }: { isEncrypted?: boolean } = {},
): string => `${vmFolder(vmUuid)}validation/${uuid.parse(backupId)}.png${isEncrypted ? AGE_SUFFIX : ''}`;

/** Both names that it can have. */
export const validationKeys = (vmUuid: string, backupId: string): string[] =>
  [false, true].map((isEncrypted) => validationKey(vmUuid, backupId, { isEncrypted }));

/**
 * Whether a key is that of a file a backup is made of, as some version of ours names them; the manifest is none of them.
 * What else lies in a VM's folder is somebody else's.
 */
export function isBackupFile(key: string): boolean {
  const [vmUuid, folder = '', name = '', ...rest] = key.split('/');
  if (rest.length > 0 || !uuid.safeParse(vmUuid).success) return false;
  if (folder === 'validation') return /^[0-9a-f-]{36}\.png(\.age)?$/.test(name);
  const stored = name.replace(REWRITE, '').replace(/\.sums$/, '');
  return /^disk-\d+$/.test(folder) && /^(full|incr)-\d{8}-\d{6}[\w.-]*\.qcow2(\.age)?$/.test(stored);
}

/**
 * The name that an incremental's qcow2 header gives for the file under a key: its bare file name. Of an encrypted one that of
 * the qcow2 file in it, so that a chain that was decrypted by hand opens.
 */
export function nameOfKey(key: string): string {
  return plainKey(key.slice(key.lastIndexOf('/') + 1));
}

/** The VM and backup of a manifest's key; undefined for other keys. */
export function parseManifestKey(key: string): { vmUuid: string; backupId: string } | undefined {
  const [vmUuid, folder, name, ...rest] = key.split('/');
  if (folder !== 'backups' || rest.length > 0 || !name?.endsWith('.json')) return undefined;
  const backupId = name.slice(0, -'.json'.length);
  if (!uuid.safeParse(vmUuid).success || !uuid.safeParse(backupId).success) return undefined;
  return { vmUuid: vmUuid ?? '', backupId };
}
