import { readFile, writeFile } from 'node:fs/promises';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import type { ChainFile, SegmentSum } from '../../copier/contract.ts';
import { AGE_HEAD_BYTES, CHUNK_BYTES, sealChunks, storedLength, storedOffset } from '../../repository/age-file.ts';
import { createAgeHead } from '../../repository/age-head.ts';
import { filePathOf } from '../../repository/source.ts';
import { sha256 } from './stored-chain.ts';

export interface KeyPair {
  identity: string;
  recipient: string;
}

export async function newKeyPair(): Promise<KeyPair> {
  const identity = await generateX25519Identity();
  return { identity, recipient: await identityToRecipient(identity) };
}

/**
 * Encrypts files of a chain as a repository has them, each beside the former one with `.age` behind its name.
 * @param cuts length of the segments in chunks, one after the other, repeated
 */
export async function encryptChain(chain: ChainFile[], recipient: string, cuts = [64]): Promise<ChainFile[]> {
  return await Promise.all(
    chain.map(async ({ source }) => {
      const plain = await readFile(filePathOf(source));
      const { head, payloadKey } = await createAgeHead(recipient);
      const stored = Buffer.alloc(storedLength(plain.length));
      head.copy(stored);
      sealChunks(payloadKey, plain, { plainOffset: 0, isEnd: true }, stored.subarray(AGE_HEAD_BYTES));
      const path = `${filePathOf(source)}.age`;
      await writeFile(path, stored);
      const encryption = { payloadKey, plainBytes: plain.length };
      const segments = segmentsOf(stored, plain.length, cuts);
      return {
        source: { kind: 'file', path, blobKey: `${source.blobKey}.age` },
        storedBytes: stored.length,
        segments,
        encryption,
      };
    }),
  );
}

function segmentsOf(stored: Buffer, plainBytes: number, cuts: number[]): SegmentSum[] {
  const segments: SegmentSum[] = [];
  let plain = 0;
  for (let offset = 0, index = 0; offset < stored.length; index += 1) {
    plain += (cuts[index % cuts.length] ?? 1) * CHUNK_BYTES;
    const bytes = stored.subarray(offset, plain >= plainBytes ? stored.length : storedOffset(plain));
    segments.push({ offset, lengthBytes: bytes.length, sha256: sha256(bytes) });
    offset += bytes.length;
  }
  return segments;
}
