import { TaskBuffers } from '../../copier/thread-buffers.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openSource } from '../../repository/source.ts';

/** Longer than this a repository does not answer. */
const ANSWER_WITHIN_MS = 10_000;

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
