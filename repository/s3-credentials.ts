import { stat } from 'node:fs/promises';
import { placeText, type S3Place } from '../schemas/repository.ts';
import { BlobStoreError } from './blob-store.ts';
import { s3Error, troubleOf } from './s3-errors.ts';

export interface S3Keys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
  expiration?: Date;
}

/** Keys that were changed count after this time at the latest, and at once when the server refuses the former ones. */
const KEPT_MS = 5 * 60_000;

export interface S3Credentials {
  /** @throws BlobStoreError `denied` when there are no keys, or their file is open to others */
  keys: () => Promise<S3Keys>;
  /** The server refused them: the next request looks for others. */
  forget: () => void;
}

/** The keys for a place, from where its `credentials` say: kept for a while, since some sources are services. */
export function credentialsOf(place: S3Place): S3Credentials {
  let kept: { keys: Promise<S3Keys>; untilMs: number } | undefined;
  const keys = async (): Promise<S3Keys> => {
    if (kept === undefined || Date.now() > kept.untilMs) {
      const read = readKeys(place);
      kept = { keys: read, untilMs: Date.now() + KEPT_MS };
      const reading = kept;
      read.then(
        ({ expiration }) => {
          if (expiration !== undefined) reading.untilMs = Math.min(reading.untilMs, expiration.getTime() - KEPT_MS);
        },
        () => (reading.untilMs = 0),
      );
    }
    return await kept.keys;
  };
  return { keys, forget: () => (kept = undefined) };
}

async function readKeys(place: S3Place): Promise<S3Keys> {
  const { credentials } = place;
  const profile = credentials.profile === null ? {} : { profile: credentials.profile };
  if (credentials.kind === 'file') await requirePrivate(place, credentials.path);
  // Only where a bucket is used: it is most of the time a command needs to start.
  const { fromIni, fromNodeProviderChain } = await import('@aws-sdk/credential-providers');
  const source =
    credentials.kind === 'file'
      ? fromIni({ ...profile, filepath: credentials.path, configFilepath: credentials.path, ignoreCache: true })
      : fromNodeProviderChain({ ...profile, ignoreCache: true }); // else a changed file is never seen
  try {
    return await source();
  } catch (error) {
    const from = credentials.kind === 'file' ? `in ${credentials.path}` : 'on this host, where AWS tools look for them';
    throw s3Error(
      place,
      { act: `find credentials ${from}` },
      { ...troubleOf(error), code: 'CredentialsProviderError' },
    );
  }
}

async function requirePrivate(place: S3Place, path: string): Promise<void> {
  const info = await stat(path).catch((error: unknown) => {
    throw new BlobStoreError('denied', `${placeText(place)}: credentials file ${path}: ${String(error)}`, {
      cause: error,
    });
  });
  if (!info.isFile()) throw new BlobStoreError('denied', `${placeText(place)}: ${path} is no file with credentials`);
  if ((info.mode & 0o077) === 0) return;
  throw new BlobStoreError(
    'denied',
    `${placeText(place)}: credentials file ${path} can be read by others than its owner; chmod 600 ${path}`,
  );
}
