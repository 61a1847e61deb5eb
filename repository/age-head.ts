import { hkdfSync, randomBytes } from 'node:crypto';
import { Decrypter, Encrypter } from 'age-encryption';
import { AGE_HEAD_BYTES, AGE_HEADER_BYTES, AGE_NONCE_BYTES, AgeError } from './age-file.ts';

/** Start of an encrypted file, and what its chunks are sealed with. */
export interface AgeHead {
  /** Header and nonce, `AGE_HEAD_BYTES`; public. */
  head: Buffer;
  /** 32 bytes; secret. */
  payloadKey: Buffer;
}

/**
 * The start of a new file that one recipient can open. Every call gives another key.
 * @param recipient X25519, `age1…`
 */
export async function createAgeHead(recipient: string): Promise<AgeHead> {
  let fileKey: Uint8Array | undefined;
  const encrypter = new Encrypter();
  // The library keeps the file's key to itself; a recipient is told it, and this one adds no stanza.
  encrypter.addRecipient({ wrapFileKey: (key) => ((fileKey = key), []) });
  encrypter.addRecipient(recipient);
  const empty = await encrypter.encrypt(new Uint8Array(0));
  const header = Buffer.from(empty.subarray(0, AGE_HEADER_BYTES));
  if (fileKey === undefined || header.at(-1) !== LINE_FEED || !header.includes('\n--- ')) {
    throw new Error(`the header of a file for ${recipient} has another length than ${AGE_HEADER_BYTES} bytes`);
  }
  const nonce = randomBytes(AGE_NONCE_BYTES);
  return { head: Buffer.concat([header, nonce]), payloadKey: payloadKeyOf(fileKey, nonce) };
}

/**
 * The key of a file's chunks.
 * @param head the file's first `AGE_HEAD_BYTES`
 * @param identities `AGE-SECRET-KEY-1…`; the first that opens it counts
 * @throws AgeError `no-match`, `altered`
 */
export async function openAgeHead(head: Uint8Array, identities: readonly string[]): Promise<Buffer> {
  if (head.length !== AGE_HEAD_BYTES) throw new AgeError('altered', `is no age file: it has ${head.length} bytes`);
  const decrypter = new Decrypter();
  for (const identity of identities) decrypter.addIdentity(identity);
  const header = head.subarray(0, AGE_HEADER_BYTES);
  const fileKey = await decrypter.decryptHeader(header).catch((error: unknown) => {
    throw ageErrorOf(error);
  });
  return payloadKeyOf(fileKey, head.subarray(AGE_HEADER_BYTES));
}

/** What the library says about bytes that it cannot open. It has no codes; this one text is the only one that is no damage. */
export function ageErrorOf(error: unknown): AgeError {
  const said = error instanceof Error ? error.message : String(error);
  if (said.includes('no identity matched')) {
    return new AgeError('no-match', 'none of the identities opens it', { cause: error });
  }
  return new AgeError('altered', `is no age file, or was altered: ${said}`, { cause: error });
}

const LINE_FEED = 0x0a;

/** Source: age-encryption.org/v1, "Payload": HKDF-SHA-256, salt is the nonce, info "payload". */
const payloadKeyOf = (fileKey: Uint8Array, nonce: Uint8Array): Buffer =>
  Buffer.from(hkdfSync('sha256', fileKey, nonce, 'payload', 32));
