import { SharedRoom } from './shared-room.ts';

/** Bytes that are lent: they stay as they are until they are given back, once. */
export interface Lent {
  readonly bytes: Uint8Array;
  release(): void;
}

interface Entry {
  bytes: Uint8Array<SharedArrayBuffer>;
  /** It lies in the room; else in a memory of its own, because the room was lent out. */
  isInRoom: boolean;
  made: Promise<void>;
  isMade: boolean;
  users: number;
}

/**
 * Bytes that were made with some effort, in one memory; those that were asked for longest ago go first. Each is made once,
 * however many ask for it at a time; what failed is tried again by whoever asks next.
 */
export class PortionCache {
  readonly #room: SharedRoom;
  /** Newest last. */
  readonly #entries = new Map<string, Entry>();

  constructor(sizeBytes: number) {
    this.#room = new SharedRoom(sizeBytes);
  }

  /** @param make fills the memory; when it has settled nobody writes to it any more */
  async borrow(
    key: string,
    lengthBytes: number,
    make: (into: Uint8Array<SharedArrayBuffer>) => Promise<void>,
  ): Promise<Lent> {
    const entry = this.#entries.get(key) ?? this.#make(lengthBytes, make);
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    entry.users += 1;
    let isLent = true;
    const release = (): void => {
      if (!isLent) return;
      isLent = false;
      entry.users -= 1;
      if (entry.users === 0 && this.#entries.get(key) !== entry) this.#giveBack(entry);
      else if (entry.users === 0 && !entry.isInRoom) this.#entries.delete(key);
    };
    try {
      await entry.made;
    } catch (error) {
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
      release();
      throw error;
    }
    return { bytes: entry.bytes, release };
  }

  #make(lengthBytes: number, make: (into: Uint8Array<SharedArrayBuffer>) => Promise<void>): Entry {
    const taken = this.#take(lengthBytes);
    const bytes = taken ?? new Uint8Array(new SharedArrayBuffer(lengthBytes));
    const entry: Entry = { bytes, isInRoom: taken !== undefined, made: make(bytes), isMade: false, users: 0 };
    entry.made.then(
      () => (entry.isMade = true),
      () => undefined, // told by `borrow`
    );
    return entry;
  }

  /** Lets go what nobody has borrowed, oldest first, until there is room. */
  #take(lengthBytes: number): Uint8Array<SharedArrayBuffer> | undefined {
    let taken = this.#room.take(lengthBytes);
    for (const [key, entry] of this.#entries) {
      if (taken !== undefined) break;
      if (entry.users > 0 || !entry.isMade) continue;
      this.#entries.delete(key);
      this.#giveBack(entry);
      taken = this.#room.take(lengthBytes);
    }
    return taken;
  }

  #giveBack({ bytes, isInRoom }: Entry): void {
    if (isInRoom) this.#room.giveBack(bytes);
  }
}
