import type { Mapping, Qcow2Reader } from '../qcow2/reader.ts';

const WINDOW_BYTES = 512 * 1024 * 1024;

/**
 * Which clusters an image describes itself: first and count of each run, one after the other. What is not among them is
 * left to the file beneath.
 */
export async function describedRuns(
  { header, hasTables, mappings }: Pick<Qcow2Reader, 'header' | 'hasTables' | 'mappings'>,
  isWanted: (kind: Mapping['kind']) => boolean = () => true,
): Promise<number[]> {
  const { clusterBytes, virtualSizeBytes } = header;
  const runs: number[] = [];
  for (let start = 0; start < virtualSizeBytes; start += WINDOW_BYTES) {
    if (!hasTables(start, start + WINDOW_BYTES)) continue;
    for (const { guestOffset, lengthBytes, kind } of await mappings(start, start + WINDOW_BYTES)) {
      if (!isWanted(kind)) continue;
      const first = guestOffset / clusterBytes;
      const count = lengthBytes / clusterBytes;
      const last = runs.length - 2;
      if (last >= 0 && (runs[last] ?? 0) + (runs[last + 1] ?? 0) === first)
        runs[last + 1] = (runs[last + 1] ?? 0) + count;
      else runs.push(first, count);
    }
  }
  return runs;
}
