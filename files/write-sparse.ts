import { constants } from 'node:fs';
import { open } from 'node:fs/promises';

/** Zeroes of this length, at a multiple of it, become a hole: a block of the usual file systems. */
const HOLE_BYTES = 4096;
const ZEROES = Buffer.alloc(HOLE_BYTES);

/** Writes a file that must not exist yet, with holes where it is zero. Its length in bytes. */
export async function writeSparse(path: string | Buffer, content: AsyncIterable<Buffer>): Promise<number> {
  const { O_CREAT, O_EXCL, O_WRONLY, O_NOFOLLOW } = constants;
  await using file = await open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600);
  let offset = 0;
  for await (const chunk of content) {
    for (const { at, bytes } of dataOf(chunk, offset)) await writeAll(file, bytes, offset + at);
    offset += chunk.length;
  }
  await file.truncate(offset);
  return offset;
}

/** The stretches of a chunk that are not holes. @param offset of the chunk in the file */
function* dataOf(chunk: Buffer, offset: number): Generator<{ at: number; bytes: Buffer }> {
  let from = 0;
  for (let at = 0; at < chunk.length;) {
    const length = Math.min(HOLE_BYTES - ((offset + at) % HOLE_BYTES), chunk.length - at);
    if (chunk.compare(ZEROES, 0, length, at, at + length) === 0) {
      if (at > from) yield { at: from, bytes: chunk.subarray(from, at) };
      from = at + length;
    }
    at += length;
  }
  if (chunk.length > from) yield { at: from, bytes: chunk.subarray(from) };
}

async function writeAll(
  file: { write: (bytes: Buffer, at: number, length: number, position: number) => Promise<{ bytesWritten: number }> },
  bytes: Buffer,
  position: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}
