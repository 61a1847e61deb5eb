import { createHash } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { threadId } from 'node:worker_threads';
import type { SegmentSum } from '../copier/contract.ts';
import type { BlobSource } from '../repository/blob-store.ts';
import { errnoOf } from '../repository/file-errors.ts';

/**
 * A folder of this host for segments of stored files that had to be fetched from afar, each in a file that is named by its
 * SHA-256, as it came: what is encrypted stays so. All threads of a gateway use it, without asking each other.
 */
export interface KeptSegments {
  folder: string;
  maxBytes: number;
  /** The file system keeps this much free. */
  leastFreeBytes: number;
  /** Shared by the threads: KiB that are kept, and whether anything more may be. */
  state: Int32Array<SharedArrayBuffer>;
}

const KEPT_KIB = 0;
const IS_OFF = 1;
const KIB = 1024;
/** A file that is being written. */
const NEW = '.new';

/** Of the disk, for those who need it more: guests' disks may lie there, and stand still when it is full. */
const LEAST_FREE_BYTES = 1024 * 1024 * 1024;
const LEAST_FREE_SHARE = 0.02;
/** Of what was free when the gateway began. */
const SHARE_OF_FREE = 0.25;

/**
 * Makes the folder, or takes over what an earlier process kept in it.
 * @param options.maxBytes at most; less where the disk has less room
 * @param options.leastFreeBytes default: 1 GiB or 2 % of the file system
 */
export async function openSegmentFolder(
  folder: string,
  options: Pick<KeptSegments, 'maxBytes'> & Partial<KeptSegments>,
): Promise<KeptSegments> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const state = new Int32Array(new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT));
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if (name.includes(NEW)) await rm(path, { force: true });
    else state[KEPT_KIB] = (state[KEPT_KIB] ?? 0) + kib((await stat(path)).size);
  }
  const { bavail, blocks, bsize } = await statfs(folder);
  const keptBytes = (state[KEPT_KIB] ?? 0) * KIB;
  const { leastFreeBytes = Math.max(LEAST_FREE_BYTES, blocks * bsize * LEAST_FREE_SHARE) } = options;
  const maxBytes = Math.min(options.maxBytes, keptBytes + bavail * bsize * SHARE_OF_FREE);
  return { folder, maxBytes, leastFreeBytes, state };
}

/** Whether the disk was too full, and all that was kept went. */
export const isSegmentFolderOff = ({ state }: KeptSegments): boolean => Atomics.load(state, IS_OFF) === 1;

/**
 * Reads segments, whole, from the folder where it has them, with the right hash, and else from `stored`, which is not even opened
 * before. Trouble with the folder is never the reader's.
 * @param isKept what came from `stored` is kept
 */
export function keepingSource(
  stored: () => Promise<BlobSource>,
  segments: readonly SegmentSum[],
  kept: KeptSegments,
  isKept: boolean,
): BlobSource {
  const sums = new Map(segments.map((segment) => [segment.offset, segment]));
  return {
    async read(offset, bytes, options) {
      const segment = sums.get(offset);
      const isWhole = segment?.lengthBytes === bytes.length;
      if (isWhole && (await readKept(kept, segment, bytes))) return bytes.length;
      const count = await (await stored()).read(offset, bytes, options);
      if (isWhole && isKept && count === bytes.length) await keep(kept, segment, bytes);
      return count;
    },
    sizeBytes: async () => await (await stored()).sizeBytes(),
    [Symbol.asyncDispose]: async () => await (await stored())[Symbol.asyncDispose](),
  };
}

const pathOf = ({ folder }: KeptSegments, { sha256 }: SegmentSum): string => join(folder, sha256);

/** Whether the folder had it. What has another hash is removed. */
async function readKept(kept: KeptSegments, segment: SegmentSum, bytes: Uint8Array): Promise<boolean> {
  const path = pathOf(kept, segment);
  try {
    await using file = await open(path, 'r');
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    if (bytesRead === bytes.length && createHash('sha256').update(bytes).digest('hex') === segment.sha256) return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    // A disk that cannot be read: the repository has it.
  }
  await rm(path, { force: true }).then(
    () => Atomics.sub(kept.state, KEPT_KIB, kib(segment.lengthBytes)),
    () => turnOff(kept),
  );
  return false;
}

/** Keeps it, if there is room. What it says it is shows when it is read. */
async function keep(kept: KeptSegments, segment: SegmentSum, bytes: Uint8Array): Promise<void> {
  const { folder, maxBytes, leastFreeBytes, state } = kept;
  if (isSegmentFolderOff(kept)) return;
  const size = kib(bytes.length);
  const path = pathOf(kept, segment);
  const beside = `${path}${NEW}-${threadId}-${Atomics.add(state, KEPT_KIB, size)}`;
  if (Atomics.load(state, KEPT_KIB) * KIB > maxBytes) {
    Atomics.sub(state, KEPT_KIB, size);
    return;
  }
  try {
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize - bytes.length < leastFreeBytes) {
      await turnOff(kept);
      return;
    }
    await using file = await open(beside, 'wx', 0o600);
    for (let done = 0; done < bytes.length;) done += (await file.write(bytes, done)).bytesWritten;
    await rename(beside, path);
  } catch {
    await turnOff(kept); // a full disk, a broken one: the repository has what was kept
  }
}

/** Gives the disk back what it held: guests' disks may lie there. */
async function turnOff({ folder, state }: KeptSegments): Promise<void> {
  Atomics.store(state, IS_OFF, 1);
  for (const name of await readdir(folder).catch(() => [])) {
    await rm(join(folder, name), { force: true }).catch(() => undefined); // it goes with the gateway's folder
  }
}

const kib = (lengthBytes: number): number => Math.ceil(lengthBytes / KIB);
