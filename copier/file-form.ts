import {
  AGE_HEAD_BYTES,
  CHUNK_BYTES,
  sealChunks,
  sealedLength,
  storedLength,
  storedOffset,
} from '../repository/age-file.ts';
import type { NotedKey } from './journal.ts';
import { WRITE_ALIGNMENT } from './place-clusters.ts';

/** How the plain bytes of a qcow2 file lie in what is stored: as they are, or sealed as an age file. */
export interface FileForm {
  readonly isSealed: boolean;
  /** Segments begin at multiples of this. */
  readonly alignBytes: number;
  /** What comes before the first plain byte. */
  readonly head: Buffer;
  /** Where the stored bytes of a plain offset begin; of 0 behind the head. */
  storedOffset(plainOffset: number): number;
  /** Length of what is stored of so many plain bytes from an aligned offset on, without the head. */
  sealedLength(plainBytes: number): number;
  /** Length of the whole stored file. */
  storedLength(plainBytes: number): number;
  /** The stored bytes; in the start of `into`, or `plain` itself where nothing is sealed. `into` may begin where `plain` does. */
  seal(plain: Buffer, place: { plainOffset: number; isEnd: boolean }, into: Buffer): Buffer;
}

export const PLAIN_FORM: FileForm = {
  isSealed: false,
  alignBytes: WRITE_ALIGNMENT,
  head: Buffer.alloc(0),
  storedOffset: (plainOffset) => plainOffset,
  sealedLength: (plainBytes) => plainBytes,
  storedLength: (plainBytes) => plainBytes,
  seal: (plain) => plain,
};

/** An age file: see repository/age-file.ts. */
export const sealedForm = ({ head, payloadKey }: NotedKey): FileForm => ({
  isSealed: true,
  alignBytes: CHUNK_BYTES,
  head,
  storedOffset,
  sealedLength,
  storedLength,
  seal: (plain, place, into) => {
    const { buffer, byteOffset, byteLength } = sealChunks(payloadKey, plain, place, into);
    return Buffer.from(buffer, byteOffset, byteLength);
  },
});

/** In a thread: the form of a file whose segments it stores. Its head is the main thread's business. */
export const formOf = (payloadKey: Uint8Array | undefined): FileForm =>
  payloadKey === undefined
    ? PLAIN_FORM
    : sealedForm({ head: Buffer.alloc(AGE_HEAD_BYTES), payloadKey: Buffer.from(payloadKey) });
