/** A reader that goes through the disk from front to back. */
interface Stream {
  /** Where its next read is expected. */
  next: number;
  /** Reads in a row so far, and their bytes. */
  reads: number;
  readBytes: number;
  /** What was fetched for it and not read yet: where each piece ends, and how many bytes of it hold data. */
  fetched: { end: number; dataBytes: number }[];
  /** How many bytes that hold data are to be fetched before they are asked for. */
  wantedBytes: number;
  isFetching: boolean;
}

/** What to fetch: so many bytes that hold data, from there on. `fetched` must be called, with how far that went. */
export interface Ahead {
  from: number;
  dataBytes: number;
  fetched: (end: number, dataBytes: number) => void;
}

/** Streams that are told apart: a pull, and some readers in the guest. */
const MAX_STREAMS = 8;
/** How far a read may be from where it was expected: several are under way at once, in any order. */
const SLACK_BYTES = 4 * 1024 * 1024;
const READS_BEFORE = 2;
const FIRST_BYTES = 4 * 1024 * 1024;
/** Less is not worth a trip to the threads. */
const LEAST_BYTES = 1024 * 1024;

/** So much in a row, holes too, is no program of a guest that starts. */
const LONG_BYTES = 64 * 1024 * 1024;

/** Recognizes readers that go from front to back, and says what they will want next. */
export class ReadAhead {
  readonly #maxBytes: number;
  /** Newest last. */
  #streams: Stream[] = [];

  /** @param maxBytes how much is fetched ahead for one reader, at most */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Notes a read.
   * @returns what to fetch meanwhile; and whether it is one of a reader that goes through all of the disk: a pull, a copy, which
   * reads nothing twice
   */
  note(offset: number, lengthBytes: number): { ahead: Ahead | undefined; isLong: boolean } {
    const end = offset + lengthBytes;
    const stream = this.#streams.find(({ next }) => Math.abs(offset - next) <= SLACK_BYTES);
    if (stream === undefined) {
      const begun = { next: end, reads: 1, readBytes: lengthBytes, fetched: [], wantedBytes: FIRST_BYTES };
      this.#streams.push({ ...begun, isFetching: false });
      if (this.#streams.length > MAX_STREAMS) this.#streams.shift();
      return { ahead: undefined, isLong: false };
    }
    this.#streams = [...this.#streams.filter((other) => other !== stream), stream];
    stream.next = Math.max(stream.next, end);
    stream.reads += 1;
    stream.readBytes += lengthBytes;
    const isLong = stream.readBytes > LONG_BYTES;
    stream.fetched = stream.fetched.filter((piece) => piece.end > stream.next);
    const aheadBytes = stream.fetched.reduce((sum, piece) => sum + piece.dataBytes, 0);
    const dataBytes = stream.wantedBytes - aheadBytes;
    if (stream.isFetching || stream.reads <= READS_BEFORE || dataBytes < LEAST_BYTES) {
      return { ahead: undefined, isLong };
    }
    stream.isFetching = true;
    const ahead: Ahead = {
      from: stream.fetched.at(-1)?.end ?? stream.next,
      dataBytes,
      fetched: (to, bytes) => {
        stream.isFetching = false;
        stream.fetched.push({ end: to, dataBytes: bytes });
        stream.wantedBytes = Math.min(stream.wantedBytes * 2, this.#maxBytes);
      },
    };
    return { ahead, isLong };
  }
}
