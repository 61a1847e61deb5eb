import type { S3Place } from '../schemas/repository.ts';
import { checkKey } from './layout.ts';

/** The key in the bucket of a blob. @throws BlobStoreError `invalid-key` */
export const objectKeyOf = (place: S3Place, key: string): string => below(place, checkKey(key));

/** What all keys of a folder begin with; `folder` ends in "/", or is "" for the whole repository. */
export const objectPrefixOf = (place: S3Place, folder: string): string => below(place, folder);

/** The blob's key of an object below the prefix. */
export const blobKeyOf = ({ prefix }: S3Place, objectKey: string): string =>
  prefix === '' ? objectKey : objectKey.slice(prefix.length + 1);

const below = ({ prefix }: S3Place, key: string): string => (prefix === '' ? key : `${prefix}/${key}`);
