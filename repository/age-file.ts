import { createCipheriv, createDecipheriv, createSecretKey } from 'node:crypto';
import { freeMemory } from './free-memory.ts';

/**
 * An encrypted stored file is an age file: a head, then the payload in chunks that each stand alone, so that any of them can
 * be sealed and opened by itself, in any order and in any thread.
 *
 * ```
 * 0    header: version line, one X25519 stanza, MAC             168 bytes, text
 * 168  nonce of the payload                                      16 bytes
 * 184  chunk 0: 65,536 bytes of ciphertext, Poly1305 tag     65,552 bytes
 *      chunk n … the last one may be shorter, and is empty only in a file of no bytes
 * ```
 *
 * Source: age-encryption.org/v1 (github.com/C2SP/C2SP, age.md), "Payload". ChaCha20-Poly1305 is RFC 8439.
 */
export const AGE_HEADER_BYTES = 168;
export const AGE_NONCE_BYTES = 16;
/** What comes before the first chunk. The same in each file of ours: it has one stanza, of a fixed length. */
export const AGE_HEAD_BYTES = AGE_HEADER_BYTES + AGE_NONCE_BYTES;
/** Plain bytes of a chunk, all but the last. */
export const CHUNK_BYTES = 65_536;
export const TAG_BYTES = 16;
const STORED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES;

/** Length of the age file that holds `plainBytes`. */
export const storedLength = (plainBytes: number): number =>
  AGE_HEAD_BYTES + plainBytes + TAG_BYTES * Math.max(1, Math.ceil(plainBytes / CHUNK_BYTES));

/**
 * Length of what an age file of that length holds.
 * @throws RangeError when no age file of ours has that length
 */
export function plainLength(storedBytes: number): number {
  const payloadBytes = storedBytes - AGE_HEAD_BYTES;
  const plainBytes = payloadBytes - TAG_BYTES * Math.ceil(payloadBytes / STORED_CHUNK_BYTES);
  if (payloadBytes >= TAG_BYTES && storedLength(plainBytes) === storedBytes) return plainBytes;
  throw new RangeError(`no age file has ${storedBytes} bytes`);
}

/**
 * Where the chunk that begins at `plainOffset` lies in the age file. `plainOffset` is a multiple of `CHUNK_BYTES`, or the
 * end of the plain file.
 */
export const storedOffset = (plainOffset: number): number =>
  AGE_HEAD_BYTES + plainOffset + TAG_BYTES * Math.ceil(plainOffset / CHUNK_BYTES);

/** The other way round: the plain offset of the chunk that begins at `stored`. */
export const plainOffset = (stored: number): number => ((stored - AGE_HEAD_BYTES) / STORED_CHUNK_BYTES) * CHUNK_BYTES;

/** A stretch of an age file's payload. */
export interface ChunkPlace {
  /** Where it begins in the plain file; a multiple of `CHUNK_BYTES`. */
  plainOffset: number;
  /** Whether it reaches to the end of the file. Else its length is a multiple of `CHUNK_BYTES` (plain), of a chunk with its tag (sealed). */
  isEnd: boolean;
}

/** Length of `plainBytes` once they are sealed, without the file's head. Nothing is a chunk only as the whole file. */
export const sealedLength = (plainBytes: number): number => storedLength(plainBytes) - AGE_HEAD_BYTES;

/**
 * Encrypts whole chunks into the start of `into`, which has `sealedLength(plain.length)` bytes or more and is other memory than
 * `plain`, or of the same memory and begins where `plain` does or behind it. Returns the sealed bytes.
 *
 * A chunk of one file is sealed once, or again with the same content: the same key and number over other bytes would
 * give away both to whoever saw both.
 * @param payloadKey the 32 bytes that `createAgeHead` and `openAgeHead` give
 */
export function sealChunks(payloadKey: Uint8Array, plain: Uint8Array, place: ChunkPlace, into: Uint8Array): Uint8Array {
  const key = createSecretKey(payloadKey);
  const chunks = chunkCount(plain.length, CHUNK_BYTES, place);
  // From the last to the first: in the same memory, each takes the place of the one behind it, which is sealed by then.
  for (let i = chunks - 1; i >= 0; i--) {
    const isFinal = place.isEnd && i === chunks - 1;
    const cipher = createCipheriv('chacha20-poly1305', key, chunkNonce(place, i, isFinal), AUTHENTICATED);
    const sealed = cipher.update(plain.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES));
    cipher.final();
    const end = i * STORED_CHUNK_BYTES + sealed.length;
    into.set(sealed, i * STORED_CHUNK_BYTES);
    freeMemory(sealed);
    into.set(cipher.getAuthTag(), end);
  }
  return into.subarray(0, plain.length + chunks * TAG_BYTES);
}

/**
 * Decrypts whole chunks into the start of `into`, which is other memory than `sealed`, or of the same memory and begins where
 * `sealed` does or before it. Returns the plain bytes; when it throws, `into` holds some of them.
 * @throws AgeError when a chunk was altered, is at another place than it was sealed for, or the file was cut off or continued
 */
export function openChunks(
  payloadKey: Uint8Array,
  sealed: Uint8Array,
  place: ChunkPlace,
  into: Uint8Array,
): Uint8Array {
  const key = createSecretKey(payloadKey);
  const chunks = chunkCount(sealed.length, STORED_CHUNK_BYTES, place);
  let end = 0;
  for (let i = 0; i < chunks; i++) {
    const chunk = sealed.subarray(i * STORED_CHUNK_BYTES, (i + 1) * STORED_CHUNK_BYTES);
    const isFinal = place.isEnd && i === chunks - 1;
    const plainOffset = place.plainOffset + i * CHUNK_BYTES;
    const isEmpty = chunk.length === TAG_BYTES;
    if (chunk.length < TAG_BYTES || (isEmpty && plainOffset > 0)) {
      throw new AgeError('altered', `the chunk of plain offset ${plainOffset} has ${chunk.length} bytes`);
    }
    const decipher = createDecipheriv('chacha20-poly1305', key, chunkNonce(place, i, isFinal), AUTHENTICATED);
    decipher.setAuthTag(chunk.subarray(-TAG_BYTES));
    const plain = decipher.update(chunk.subarray(0, -TAG_BYTES));
    try {
      decipher.final();
    } catch (error) {
      const what = isFinal ? 'was altered, or is not the last one of the file' : 'was altered';
      throw new AgeError('altered', `the chunk of plain offset ${plainOffset} ${what}`, { cause: error });
    }
    into.set(plain, i * CHUNK_BYTES);
    end = i * CHUNK_BYTES + plain.length;
    freeMemory(plain);
  }
  return into.subarray(0, end);
}

/**
 * - `altered`: a header or chunk is not what was written.
 * - `no-match`: none of the identities opens the file.
 */
export class AgeError extends Error {
  override readonly name = 'AgeError';
  readonly code: 'altered' | 'no-match';
  constructor(code: 'altered' | 'no-match', message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

const AUTHENTICATED = { authTagLength: TAG_BYTES };

function chunkCount(lengthBytes: number, chunkBytes: number, { plainOffset, isEnd }: ChunkPlace): number {
  if (plainOffset % CHUNK_BYTES !== 0 || (!isEnd && lengthBytes % chunkBytes !== 0)) {
    throw new RangeError(`${lengthBytes} bytes at ${plainOffset} are no whole chunks`);
  }
  if (lengthBytes === 0 && isEnd && plainOffset === 0) return 1;
  return Math.ceil(lengthBytes / chunkBytes);
}

/** Number of the chunk, 11 bytes big-endian, and a byte that is 1 for the last one. */
function chunkNonce({ plainOffset }: ChunkPlace, index: number, isFinal: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(plainOffset / CHUNK_BYTES + index, 5, 6);
  nonce.writeUInt8(isFinal ? 1 : 0, 11);
  return nonce;
}
