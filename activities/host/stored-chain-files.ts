import { TaskBuffers } from '../../copier/thread-buffers.ts';
import { HEADER_READ_BYTES, readHeader } from '../../qcow2/read-header.ts';
import { Qcow2Error } from '../../qcow2/qcow2-error.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { nameOfKey } from '../../repository/layout.ts';
import { filePathOf, openSource } from '../../repository/source.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';
import { diskOfFile, type ManifestChain } from './restore-chain.ts';

/** Longer than this a repository does not answer. */
const ANSWER_WITHIN_MS = 10_000;

/**
 * The paths of a disk's stored files, nearest first, for a QEMU to open. Their headers must name what their manifests say,
 * and nothing else: no other backing file, no file of external data.
 * @throws HoldfastError IntegrityMismatch, with the file's name
 */
export async function chainForQemu(
  store: BlobStore,
  chain: ManifestChain,
  disk: Pick<DiskToRestore, 'chain'>,
): Promise<string[]> {
  const paths: string[] = [];
  for (const link of disk.chain) {
    const stored = diskOfFile(chain, link);
    const descriptor = store.source(stored.file);
    await using source = await openSource(descriptor);
    const sizeBytes = await source.sizeBytes();
    const start = Buffer.alloc(Math.min(HEADER_READ_BYTES, sizeBytes));
    await source.read(0, start);
    const expected = stored.backingFile === null ? undefined : nameOfKey(stored.backingFile);
    try {
      const { backingFile, backingFormat } = readHeader(start, sizeBytes);
      if (backingFile !== expected) {
        throw new Qcow2Error(`names the backing file ${JSON.stringify(backingFile ?? null)}`);
      }
      if (expected !== undefined && backingFormat !== 'qcow2') throw new Qcow2Error('names another backing format');
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      throw new HoldfastError(
        'IntegrityMismatch',
        `${stored.file} ${error.message}, its manifest says ${expected ?? 'none'}; the VM was not touched`,
        { cause: error },
      );
    }
    paths.unshift(filePathOf(descriptor));
  }
  return paths;
}

/**
 * Whether stored files can be read at the moment. A file system that hangs keeps the thread that asked it: while a probe of
 * the same repository has not come back no other is sent after it.
 */
export class RepositoryProbe {
  readonly #hanging = new Map<string, Promise<string | undefined>>();

  /** What is wrong, or undefined when the first page of each file can be read. */
  async problem(store: BlobStore, repositoryId: string, keys: readonly string[]): Promise<string | undefined> {
    const probe =
      this.#hanging.get(repositoryId) ??
      readEach(store, keys).finally(() => {
        this.#hanging.delete(repositoryId);
      });
    this.#hanging.set(repositoryId, probe);
    const late = Promise.withResolvers<string>();
    const timer = setTimeout(() => late.resolve('the repository does not answer'), ANSWER_WITHIN_MS);
    try {
      return await Promise.race([probe, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }
}

const PAGE_BYTES = 4096;

/** In aligned memory, so that the read goes past the page cache: what is in there says nothing of the medium. */
async function readEach(store: BlobStore, keys: readonly string[]): Promise<string | undefined> {
  const buffers = new TaskBuffers();
  try {
    const page = buffers.take(PAGE_BYTES);
    for (const key of keys) {
      await using source = await openSource(store.source(key));
      await source.read(0, page);
    }
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    buffers.giveBack();
  }
}
