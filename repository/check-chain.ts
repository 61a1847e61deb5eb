import type { BlobStore } from './blob-store.ts';

export interface ChainProblem {
  key: string;
  problem: 'missing' | 'short' | 'long';
  expectedBytes: number | null;
  /** undefined when missing. */
  foundBytes: number | undefined;
}

/**
 * Compares stored files with the sizes their manifests give, null where any will do; no byte of content is read. Problems come in the order of `files`.
 * @throws BlobStoreError when the store cannot tell: that a repository is gone does not mean that its files are missing
 */
export async function checkChainFiles(
  store: BlobStore,
  files: readonly { key: string; storedBytes: number | null }[],
): Promise<ChainProblem[]> {
  const checked = await Promise.all(
    files.map(async ({ key, storedBytes }) => {
      const foundBytes = (await store.statBlob(key))?.sizeBytes;
      return { key, problem: problemOf(foundBytes, storedBytes), expectedBytes: storedBytes, foundBytes };
    }),
  );
  return checked.flatMap(({ problem, ...rest }) => (problem ? [{ ...rest, problem }] : []));
}

function problemOf(foundBytes: number | undefined, expectedBytes: number | null): ChainProblem['problem'] | undefined {
  if (foundBytes === undefined) return 'missing';
  if (expectedBytes === null || foundBytes === expectedBytes) return undefined;
  return foundBytes < expectedBytes ? 'short' : 'long';
}
