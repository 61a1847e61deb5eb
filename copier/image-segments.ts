import { AGE_HEAD_BYTES, CHUNK_BYTES, plainOffset, storedLength, storedOffset } from '../repository/age-file.ts';
import type { ChainFile, OpenedEncryption, SegmentSum } from './contract.ts';

/**
 * Where the segments of a stored file lie in its qcow2 file, the image. They are the same unless the file is encrypted: then a
 * segment is whole chunks, and the first one has the age file's head before them.
 */
type Encrypted = OpenedEncryption | undefined;

/** Length of the image. */
export const imageBytes = ({ storedBytes, encryption }: Pick<ChainFile, 'storedBytes' | 'encryption'>): number =>
  encryption?.plainBytes ?? storedBytes;

/** Where in the image a segment begins. */
export const imageOffset = ({ offset }: Pick<SegmentSum, 'offset'>, encryption: Encrypted): number =>
  encryption === undefined || offset === 0 ? offset : plainOffset(offset);

/** Where in the image it ends. */
export function imageEnd({ offset, lengthBytes }: SegmentSum, encryption: Encrypted): number {
  const end = offset + lengthBytes;
  if (encryption === undefined) return end;
  return end === storedLength(encryption.plainBytes) ? encryption.plainBytes : plainOffset(end);
}

/** Where in the stored file the byte at `offset` of the image lies, or the chunk that holds it. */
export const storedPlace = (offset: number, encryption: Encrypted): number =>
  encryption === undefined ? offset : storedOffset(offset - (offset % CHUNK_BYTES));

/** Whether a segment may begin there. */
export const isChunkBorder = (stored: number): boolean =>
  stored > AGE_HEAD_BYTES && storedOffset(plainOffset(stored)) === stored && plainOffset(stored) % CHUNK_BYTES === 0;
