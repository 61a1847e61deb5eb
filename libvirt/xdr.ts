/**
 * XDR, the byte form of libvirt's RPC: big-endian, every item padded with zeroes to a multiple of four bytes.
 * Source: RFC 4506.
 */

/** Bytes that are not what the protocol says, or a value that cannot be sent. */
export class XdrError extends Error {
  override readonly name = 'XdrError';
}

/** REMOTE_STRING_MAX: the daemon closes the connection on a longer string, so we refuse before we send. */
export const STRING_MAX_BYTES = 0x400000;

export class XdrWriter {
  #buffer = Buffer.alloc(256);
  #length = 0;

  /** What was written; a view, valid until the next write. */
  bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  int(value: number): void {
    this.#reserve(4).writeInt32BE(value);
  }

  uint(value: number): void {
    this.#reserve(4).writeUInt32BE(value);
  }

  hyper(value: bigint): void {
    this.#reserve(8).writeBigInt64BE(value);
  }

  uhyper(value: bigint): void {
    this.#reserve(8).writeBigUInt64BE(value);
  }

  double(value: number): void {
    this.#reserve(8).writeDoubleBE(value);
  }

  /** Bytes of a length both sides know. */
  fixed(value: Uint8Array): void {
    this.#reserve(padded(value.length)).set(value);
  }

  #reserve(length: number): Buffer {
    const start = this.#length;
    const end = start + length;
    if (end > this.#buffer.length) {
      const grown = Buffer.alloc(Math.max(end, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, start);
      this.#buffer = grown;
    }
    this.#length = end;
    return this.#buffer.subarray(start, end);
  }
}

export class XdrReader {
  readonly #buffer: Buffer;
  #offset = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  get remaining(): number {
    return this.#buffer.length - this.#offset;
  }

  int(): number {
    return this.fixed(4).readInt32BE();
  }

  uint(): number {
    return this.fixed(4).readUInt32BE();
  }

  hyper(): bigint {
    return this.fixed(8).readBigInt64BE();
  }

  uhyper(): bigint {
    return this.fixed(8).readBigUInt64BE();
  }

  double(): number {
    return this.fixed(8).readDoubleBE();
  }

  /** A view of the next `length` bytes; also takes their padding. */
  fixed(length: number): Buffer {
    const start = this.#offset;
    if (padded(length) > this.remaining) {
      throw new XdrError(`needs ${length} bytes at offset ${start}, has ${this.remaining}`);
    }
    this.#offset += padded(length);
    return this.#buffer.subarray(start, start + length);
  }
}

const padded = (length: number): number => (length + 3) & ~3;

/** How values of T are written and read. */
export interface Codec<T> {
  write(to: XdrWriter, value: T): void;
  read(from: XdrReader): T;
}

export const int: Codec<number> = { write: (to, value) => to.int(value), read: (from) => from.int() };
export const uint: Codec<number> = { write: (to, value) => to.uint(value), read: (from) => from.uint() };
export const hyper: Codec<bigint> = { write: (to, value) => to.hyper(value), read: (from) => from.hyper() };
export const uhyper: Codec<bigint> = { write: (to, value) => to.uhyper(value), read: (from) => from.uhyper() };
export const double: Codec<number> = { write: (to, value) => to.double(value), read: (from) => from.double() };

/** libvirt sends its booleans as int. */
export const flag: Codec<boolean> = { write: (to, value) => to.int(value ? 1 : 0), read: (from) => from.int() !== 0 };

const variable = (from: XdrReader, maxBytes: number): Buffer => {
  const length = from.uint();
  if (length > maxBytes) throw new XdrError(`has ${length} bytes where at most ${maxBytes} are allowed`);
  return from.fixed(length);
};

/** UTF-8 text of at most 4 MiB. */
export const string: Codec<string> = {
  write(to, value) {
    const bytes = Buffer.from(value);
    if (bytes.length > STRING_MAX_BYTES) {
      throw new XdrError(`a text of ${bytes.length} bytes is longer than libvirt takes (${STRING_MAX_BYTES})`);
    }
    // libvirt reads it as a C string: what follows a NUL would be cut off silently.
    if (bytes.includes(0)) throw new XdrError('a text for libvirt may not hold a NUL character');
    to.uint(bytes.length);
    to.fixed(bytes);
  },
  read: (from) => variable(from, STRING_MAX_BYTES).toString('utf8'),
};

/** A C char array of fixed length: each char takes a word of its own; the text ends at the first zero. */
export const charArray = (length: number): Codec<string> => ({
  write(to, value) {
    const bytes = Buffer.from(value);
    for (let index = 0; index < length; index++) to.int(bytes[index] ?? 0);
  },
  read(from) {
    const bytes = Buffer.from(Array.from({ length }, () => from.int() & 0xff));
    const end = bytes.indexOf(0);
    return bytes.toString('utf8', 0, end === -1 ? length : end);
  },
});

/** 16 bytes on the wire, the text form in lower case here. */
export const uuid: Codec<string> = {
  write(to, value) {
    const bytes = Buffer.from(value.replaceAll('-', ''), 'hex');
    if (bytes.length !== 16) throw new XdrError(`not a UUID: ${value}`);
    to.fixed(bytes);
  },
  read: (from) =>
    from
      .fixed(16)
      .toString('hex')
      .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
};

export const optional = <T>(codec: Codec<T>): Codec<T | null> => ({
  write(to, value) {
    to.uint(value === null ? 0 : 1);
    if (value !== null) codec.write(to, value);
  },
  read: (from) => (from.uint() === 0 ? null : codec.read(from)),
});

export const array = <T>(codec: Codec<T>, maxLength: number): Codec<T[]> => ({
  write(to, values) {
    if (values.length > maxLength) throw new XdrError(`${values.length} items where libvirt takes ${maxLength}`);
    to.uint(values.length);
    for (const value of values) codec.write(to, value);
  },
  read(from) {
    const length = from.uint();
    if (length > maxLength) throw new XdrError(`has ${length} items where at most ${maxLength} are allowed`);
    return Array.from({ length }, () => codec.read(from));
  },
});

/** Fields in the order in which they are written down. */
export const struct = <T extends object>(fields: { readonly [K in keyof T]: Codec<T[K]> }): Codec<T> => {
  const names = Object.keys(fields) as (keyof T)[];
  return {
    write(to, value) {
      for (const name of names) fields[name].write(to, value[name]);
    },
    read(from) {
      const value = {} as T;
      for (const name of names) value[name] = fields[name].read(from);
      return value;
    },
  };
};

/** Writes a value of its own into new bytes. */
export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const writer = new XdrWriter();
  codec.write(writer, value);
  return writer.bytes();
}
