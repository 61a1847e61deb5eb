import type { PartSink } from '../../repository/blob-store.ts';

/** A bucket's upload in memory. */
export class FakePartSink implements PartSink {
  readonly kind = 'parts';
  readonly blobKey = 'vm/full.qcow2';
  readonly identity: string;
  readonly minPartBytes: number;
  readonly maxPartBytes = 2 ** 32;
  readonly maxParts: number;
  readonly parts: Map<number, Buffer>;
  /** Contents that a part was ever asked to have, stored or not. */
  readonly asked: { number: number; bytes: Buffer }[] = [];
  /** Most puts that were under way at once. */
  peak = 0;
  #underWay = 0;
  /** What happens before a part counts as stored. */
  beforeStored: (number: number, signal: AbortSignal) => Promise<void> = () => Promise.resolve();

  constructor({
    identity = 'upload-1',
    minPartBytes = 1024 * 1024,
    maxParts = 10_000,
    parts = new Map<number, Buffer>(),
  }: { identity?: string; minPartBytes?: number; maxParts?: number; parts?: Map<number, Buffer> } = {}) {
    this.identity = identity;
    this.minPartBytes = minPartBytes;
    this.maxParts = maxParts;
    this.parts = parts;
  }

  async putPart(number: number, bytes: Uint8Array, { signal }: { signal: AbortSignal }): Promise<void> {
    signal.throwIfAborted();
    this.asked.push({ number, bytes: Buffer.from(bytes) });
    this.#underWay += 1;
    this.peak = Math.max(this.peak, this.#underWay);
    try {
      await this.beforeStored(number, signal);
      signal.throwIfAborted();
      this.parts.set(number, Buffer.from(bytes));
    } finally {
      this.#underWay -= 1;
    }
  }

  storedParts(): Promise<ReadonlyMap<number, number>> {
    return Promise.resolve(new Map([...this.parts].map(([number, { length }]) => [number, length])));
  }

  /** The object, as finishing the upload makes it. Throws where S3 would refuse. */
  object(totalBytes: number): Buffer {
    const parts: Buffer[] = [];
    let length = 0;
    for (let number = 1; length < totalBytes; number += 1) {
      const part = this.parts.get(number);
      if (!part) throw new Error(`part ${number} is not stored`);
      parts.push(part);
      length += part.length;
      if (length < totalBytes && part.length < this.minPartBytes) throw new Error(`part ${number} is too small`);
    }
    if (parts.length !== this.parts.size) throw new Error(`${this.parts.size} parts are stored, not ${parts.length}`);
    if (length !== totalBytes) throw new Error(`the parts have ${length} bytes, not ${totalBytes}`);
    return Buffer.concat(parts);
  }
}
