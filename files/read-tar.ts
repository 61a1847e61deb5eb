import { HoldfastError } from '../schemas/failures.ts';

/** One member of a tar archive. */
export interface TarMember {
  type: 'file' | 'directory' | 'symlink' | 'hardlink' | 'other';
  /** As it is written in the archive. */
  path: Buffer;
  /** Of `symlink` and `hardlink`. */
  link: Buffer;
  mode: number;
  modifiedSeconds: number;
  sizeBytes: number;
  /** Must be read to its end before the next member is asked for. */
  content: AsyncIterable<Buffer>;
}

const BLOCK_BYTES = 512;
/** A name of GNU tar that is longer than a path may be is none. Source: Linux include/uapi/linux/limits.h, PATH_MAX */
const MAX_NAME_BYTES = 64 * 1024;

const TYPES: Record<string, TarMember['type']> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '5': 'directory',
};

/**
 * The members of an archive of GNU tar's own format, as they come.
 * Source: GNU tar manual, "Basic Tar Format" and "GNU Extensions to the Archive Format"
 * @throws HoldfastError FilesNotReadable when it ends before its time or is no such archive
 */
export async function* readTar(archive: AsyncIterable<Buffer>): AsyncGenerator<TarMember, void, undefined> {
  const bytes = new Bytes(archive);
  let longPath: Buffer | undefined;
  let longLink: Buffer | undefined;
  for (;;) {
    const header = await bytes.take(BLOCK_BYTES);
    if (header.every((byte) => byte === 0)) break;
    requireSum(header);
    const type = String.fromCharCode(header[156] ?? 0);
    const sizeBytes = numberAt(header, 124, 12);
    const paddingBytes = -sizeBytes & (BLOCK_BYTES - 1);
    if (type === 'L' || type === 'K') {
      if (sizeBytes > MAX_NAME_BYTES) throw malformed(`a name of ${sizeBytes} bytes`);
      const name = textAt(await bytes.take(sizeBytes), 0, sizeBytes);
      await bytes.take(paddingBytes);
      if (type === 'L') longPath = name;
      else longLink = name;
      continue;
    }
    const member = TYPES[type] ?? 'other';
    const contentBytes = member === 'file' ? sizeBytes : 0;
    yield {
      type: member,
      path: longPath ?? pathOf(header),
      link: longLink ?? textAt(header, 157, 100),
      mode: numberAt(header, 100, 8) & 0o7777,
      modifiedSeconds: numberAt(header, 136, 12),
      sizeBytes: contentBytes,
      content: bytes.next(contentBytes),
    };
    if (member === 'file') await bytes.take(paddingBytes);
    longPath = longLink = undefined;
  }
  await bytes.skipRest(); // tar fills its last record
}

/** Stretches of a stream. */
class Bytes {
  readonly #chunks: AsyncIterator<Buffer>;
  #held: Buffer = Buffer.alloc(0);
  constructor(stream: AsyncIterable<Buffer>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  async take(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const part of this.next(count)) parts.push(part);
    return Buffer.concat(parts);
  }

  async *next(count: number): AsyncGenerator<Buffer, void, undefined> {
    for (let left = count; left > 0;) {
      if (this.#held.length === 0 && !(await this.#more())) throw malformed('its end comes too early');
      const part = this.#held.subarray(0, left);
      this.#held = this.#held.subarray(part.length);
      left -= part.length;
      yield part;
    }
  }

  async skipRest(): Promise<void> {
    while (await this.#more()) this.#held = Buffer.alloc(0);
  }

  async #more(): Promise<boolean> {
    const next = await this.#chunks.next();
    if (next.done === true) return false;
    this.#held = next.value;
    return true;
  }
}

/** The sum of all bytes of the header, its own field taken as blanks. */
function requireSum(header: Buffer): void {
  let sum = 0;
  for (const [at, byte] of header.entries()) sum += at >= 148 && at < 156 ? 0x20 : byte;
  if (sum !== numberAt(header, 148, 8)) throw malformed('the sum of a header is wrong');
}

/** Octal digits; or, from a set highest bit on, a big-endian number, for sizes of 8 GiB and more and times before 1970. */
function numberAt(header: Buffer, at: number, length: number): number {
  const field = header.subarray(at, at + length);
  const first = field[0] ?? 0;
  if (first === 0x80 || first === 0xff) return Number(field.subarray(length - 8).readBigInt64BE());
  const digits = textAt(header, at, length).toString('latin1').trim();
  if (!/^[0-7]*$/.test(digits)) throw malformed(`${JSON.stringify(digits)} is no octal number`);
  return digits === '' ? 0 : Number.parseInt(digits, 8);
}

/** POSIX archives keep the beginning of a long path in a field of its own; GNU's have other things there. */
function pathOf(header: Buffer): Buffer {
  const name = textAt(header, 0, 100);
  const isPosix = header.subarray(257, 265).toString('latin1') === 'ustar\x0000';
  const prefix = isPosix ? textAt(header, 345, 155) : Buffer.alloc(0);
  return prefix.length === 0 ? name : Buffer.concat([prefix, Buffer.from('/'), name]);
}

function textAt(bytes: Buffer, at: number, length: number): Buffer {
  const field = bytes.subarray(at, at + length);
  const end = field.indexOf(0);
  return end === -1 ? field : field.subarray(0, end);
}

const malformed = (what: string): HoldfastError =>
  new HoldfastError('FilesNotReadable', `the archive that libguestfs makes of the directory cannot be read: ${what}`);
