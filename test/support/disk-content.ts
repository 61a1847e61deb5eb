import { createHash } from 'node:crypto';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './run.ts';
import { tempDir } from './temp.ts';

type Format = 'qcow2' | 'raw';

/** `force-share` reads an image that a running QEMU holds; what it then reads may be torn. */
interface ImageOptions {
  forceShare?: boolean;
}

interface Extent {
  start: number;
  length: number;
  zero: boolean;
}

const PIECE_BYTES = 0x400000;
const ZEROES = Buffer.alloc(PIECE_BYTES);

/**
 * SHA-256 of what a guest would read from the image: the same as `sha256sum` of the disk in the guest, or of a raw copy.
 * Backing files are followed. Holes are hashed without being read.
 */
export async function sha256OfImage(path: string, format: Format, { forceShare }: ImageOptions = {}): Promise<string> {
  if (format === 'raw') return await sha256OfRaw(path);
  await using dir = await tempDir('hash');
  const raw = join(dir.path, 'raw');
  const share = forceShare === true ? ['-U'] : [];
  await run('qemu-img', ['convert', ...share, '-f', format, '-O', 'raw', '-W', path, raw]);
  return await sha256OfRaw(raw);
}

async function sha256OfRaw(path: string): Promise<string> {
  const map = await run('qemu-img', ['map', '-U', '--output=json', '-f', 'raw', path]);
  const extents = JSON.parse(map.stdout.toString()) as Extent[];
  const hash = createHash('sha256');
  // qemu-img rounds a raw file up to whole sectors.
  const sizeBytes = (await stat(path)).isFile() ? (await stat(path)).size : Number.MAX_SAFE_INTEGER;
  const buffer = Buffer.alloc(PIECE_BYTES);
  await using file = await open(path);
  for (const { start, length, zero } of extents) {
    const end = Math.min(start + length, sizeBytes);
    for (let at = start; at < end; at += PIECE_BYTES) {
      const piece = Math.min(PIECE_BYTES, end - at);
      hash.update(zero ? ZEROES.subarray(0, piece) : await readFully(file, buffer.subarray(0, piece), at));
    }
  }
  return hash.digest('hex');
}

async function readFully(file: FileHandle, into: Buffer, position: number): Promise<Buffer> {
  for (let got = 0; got < into.length;) {
    const { bytesRead } = await file.read(into, got, into.length - got, position + got);
    if (bytesRead === 0) throw new Error(`the file ends at ${position + got}`);
    got += bytesRead;
  }
  return into;
}

/** Throws when `qemu-img check` finds errors or leaked clusters. */
export async function qemuImgCheck(path: string, { forceShare }: ImageOptions = {}): Promise<void> {
  await run('qemu-img', ['check', '-q', ...(forceShare === true ? ['-U'] : []), path]);
}

export interface ImageInfo {
  format: string;
  virtualSizeBytes: number;
  /** Space the file takes. */
  actualSizeBytes: number;
  clusterBytes: number | null;
  /** As written in the image. */
  backingFile: string | null;
  backingFormat: string | null;
  /** Persistent bitmaps; one that is `in-use` was not closed properly, or a QEMU has it open. */
  bitmaps: { name: string; granularityBytes: number; flags: string[] }[];
}

export async function qemuImgInfo(path: string): Promise<ImageInfo> {
  const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', path]);
  const info = JSON.parse(stdout.toString()) as {
    format: string;
    'virtual-size': number;
    'actual-size': number;
    'cluster-size'?: number;
    'backing-filename'?: string;
    'backing-filename-format'?: string;
    'format-specific'?: { data?: { bitmaps?: { name: string; granularity: number; flags: string[] }[] } };
  };
  return {
    format: info.format,
    virtualSizeBytes: info['virtual-size'],
    actualSizeBytes: info['actual-size'],
    clusterBytes: info['cluster-size'] ?? null,
    backingFile: info['backing-filename'] ?? null,
    backingFormat: info['backing-filename-format'] ?? null,
    bitmaps: (info['format-specific']?.data?.bitmaps ?? []).map(({ name, granularity, flags }) => ({
      name,
      granularityBytes: granularity,
      flags,
    })),
  };
}
