import { chainMap } from '../qcow2/chain-map.ts';
import type { Stretch } from '../qcow2/chain-map.ts';
import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import { openQcow2 } from '../qcow2/reader.ts';
import type { Qcow2Reader } from '../qcow2/reader.ts';
import type { BlobSource } from '../repository/blob-store.ts';
import { nameOfKey } from '../repository/layout.ts';
import { altered, checkSegments, checkSize, openStored, segmentAt } from './chain-source.ts';
import type { ChainFile, RestoreDiskOptions } from './contract.ts';
import { imageEnd, storedPlace } from './image-segments.ts';
import type { DestinationLayout } from './restore-layout.ts';
import { PieceList } from './restore-pieces.ts';
import { VerifiedBytes } from './verified-bytes.ts';

/** What is to be done with one file of a chain. */
export interface PlannedFile {
  file: ChainFile;
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
  pieces: PieceList;
  /** Segments that were read, hashed and parsed already: those with the tables. */
  verified: ReadonlySet<number>;
}

/** Files of a chain, open, their headers and tables proved by the sums before they are believed. */
export interface OpenChain extends AsyncDisposable {
  chain: readonly ChainFile[];
  /** Base first, like the chain. */
  readers: readonly Qcow2Reader[];
  /** Of each file the segments that were read, hashed and parsed so far. */
  verified: readonly ReadonlySet<number>[];
  /** Runs `work` on one file; what it finds wrong is told with the file's name. */
  naming: <T>(index: number, work: () => Promise<T>) => Promise<T>;
}

/**
 * Opens a chain: sizes are compared, and the files must name each other as the chain does.
 * @param options.below the file that the first one is layered on, for a chain that is only the upper part of one
 * @param options.openFile how a stored file is read; what it gives is compared with the sums. Default: from its repository
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export async function openChain({
  chain,
  virtualSizeBytes,
  below,
  openFile = ({ source }) => openStored(source),
  signal,
}: Pick<RestoreDiskOptions, 'chain' | 'virtualSizeBytes' | 'signal'> & {
  below?: string | undefined;
  openFile?: (file: ChainFile) => Promise<BlobSource>;
}): Promise<OpenChain> {
  await using opened = new AsyncDisposableStack();
  const bytes: VerifiedBytes[] = [];
  for (const file of chain) {
    checkSegments(file);
    const source = opened.use(await openFile(file));
    await checkSize(source, file);
    bytes.push(new VerifiedBytes(file, source, signal));
  }
  const naming: OpenChain['naming'] = async (index, work) => {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      throw altered(chain[index]?.source.blobKey ?? '', error.message, error);
    }
  };
  const readers: Qcow2Reader[] = [];
  for (const [index, each] of bytes.entries()) readers.push(await naming(index, () => openQcow2(each)));
  checkChain(chain, readers, virtualSizeBytes, below);
  const kept = opened.move();
  const verified = bytes.map((each) => each.verified);
  return { chain, readers, verified, naming, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

/**
 * Decides which stored bytes go where before the first one is written.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export async function planRestore(
  options: Pick<RestoreDiskOptions, 'chain' | 'virtualSizeBytes' | 'signal'>,
  layout: Pick<DestinationLayout, 'place'>,
): Promise<PlannedFile[]> {
  await using opened = await openChain(options);
  return await planPieces(opened, layout, options.signal);
}

/** What of each file is to be seen through the chain, and where the layout places it. */
export async function planPieces(
  { chain, readers, verified, naming }: OpenChain,
  layout: Pick<DestinationLayout, 'place'>,
  signal: AbortSignal,
): Promise<PlannedFile[]> {
  const planned = chain.map((file, index) => ({
    file,
    clusterBytes: readers[index]?.header.clusterBytes ?? 0,
    compression: readers[index]?.header.compression ?? 'zstd',
    pieces: new PieceList(),
    verified: verified[index] ?? new Set<number>(),
  }));
  const hints = chain.map(() => 0);
  for await (const stretches of chainMap(readers, naming)) {
    signal.throwIfAborted();
    for (const stretch of stretches) {
      const target = planned[stretch.file];
      if (!target) continue;
      const destinationOffset = layout.place(stretch.guestOffset, stretch.lengthBytes);
      hints[stretch.file] = addPieces(target, stretch, destinationOffset, hints[stretch.file] ?? 0);
    }
  }
  return planned;
}

/** The files must be the chain they are said to be: each names the one before, the last has the disk's size. */
export function checkChain(
  chain: readonly ChainFile[],
  readers: readonly Pick<Qcow2Reader, 'header'>[],
  virtualSizeBytes: number,
  below?: string,
): void {
  for (const [index, { header }] of readers.entries()) {
    const blobKey = chain[index]?.source.blobKey ?? '';
    const before = chain[index - 1];
    const parent = before ? nameOfKey(before.source.blobKey) : below;
    if (header.backingFile !== parent) {
      const [named, expected] = [header.backingFile ?? 'none', parent ?? 'none'];
      throw altered(blobKey, `its header names the backing file ${named}, the manifest ${expected}`);
    }
    if (index === readers.length - 1 && header.virtualSizeBytes !== virtualSizeBytes) {
      throw altered(blobKey, `its disk has ${header.virtualSizeBytes} bytes, the manifest says ${virtualSizeBytes}`);
    }
  }
}

/**
 * Adds a stretch to the pieces of its file. A plain one is cut where a segment ends; a compressed cluster belongs to the segment
 * it begins in.
 * @param hint where to look for the segment first
 * @returns index of its last segment, the next hint
 */
export function addPieces(
  { file, pieces }: Pick<PlannedFile, 'file' | 'pieces'>,
  stretch: Stretch,
  destinationOffset: number,
  hint: number,
): number {
  const { hostOffset, storedBytes: compressedBytes, innerOffset, lengthBytes, kind } = stretch;
  let index = segmentAt(file.segments, storedPlace(hostOffset, file.encryption), hint);
  if (kind === 'compressed') {
    pieces.add(index, { hostOffset, compressedBytes, innerOffset, lengthBytes, destinationOffset });
    return index;
  }
  for (let done = 0; done < lengthBytes; index += 1) {
    const segment = file.segments[index];
    if (!segment) throw new RangeError(`no segment ${index}`); // the reader has checked that the stretch is in the file
    const partBytes = Math.min(lengthBytes - done, imageEnd(segment, file.encryption) - hostOffset - done);
    pieces.add(index, {
      hostOffset: hostOffset + done,
      compressedBytes: 0,
      innerOffset: 0,
      lengthBytes: partBytes,
      destinationOffset: destinationOffset + done,
    });
    done += partBytes;
  }
  return index - 1;
}
