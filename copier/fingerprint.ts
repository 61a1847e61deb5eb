import { createHash } from 'node:crypto';

/** Guest's bytes that are hashed together, where clusters are not smaller. */
const GRANULE_BYTES = 65_536;
const WORDS = 8;

let zeroes = Buffer.alloc(0);

/**
 * Tells whether two images hold the same for the guest, though their bytes lie in different order: the sum, modulo 2^256, of
 * the SHA-256 of each granule that is not zero, its place on the disk hashed with it. Parts may be added in any order.
 */
export class Fingerprint {
  readonly #words = new Uint32Array(WORDS);

  /** @param clusters one behind the other @param guests which cluster of the disk each one is */
  addClusters(clusters: Buffer, guests: Uint32Array, clusterBytes: number): void {
    const granuleBytes = Math.min(GRANULE_BYTES, clusterBytes);
    if (zeroes.length < granuleBytes) zeroes = Buffer.alloc(granuleBytes);
    const place = Buffer.alloc(8);
    for (let at = 0; at < guests.length * clusterBytes; at += granuleBytes) {
      const granule = clusters.subarray(at, at + granuleBytes);
      if (granule.compare(zeroes, 0, granuleBytes) === 0) continue;
      const inCluster = at % clusterBytes;
      const guest = guests[(at - inCluster) / clusterBytes] ?? 0;
      place.writeDoubleLE(guest * clusterBytes + inCluster);
      this.add(createHash('sha256').update(place).update(granule).digest());
    }
  }

  add(part: Uint8Array): void {
    const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
    let carry = 0;
    for (let word = 0; word < WORDS; word += 1) {
      const sum = (this.#words[word] ?? 0) + view.getUint32(word * 4, true) + carry;
      this.#words[word] = sum;
      carry = sum > 0xffff_ffff ? 1 : 0;
    }
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(WORDS * 4);
    const view = new DataView(bytes.buffer);
    for (const [word, value] of this.#words.entries()) view.setUint32(word * 4, value, true);
    return bytes;
  }

  equals(other: Fingerprint): boolean {
    return Buffer.compare(this.bytes(), other.bytes()) === 0;
  }
}
