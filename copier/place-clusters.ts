/** Segments start and end at multiples of this, so that they can be written with O_DIRECT. */
export const WRITE_ALIGNMENT = 4096;

/** How a read cluster is stored: 0 not at all because it is zero, the cluster size as it is, anything else compressed to that. */
export type ClusterSizes = Uint32Array;

export interface Placement {
  /** Where in the file each cluster lies; 0 for those not stored. */
  offsets: Float64Array;
  /** From the start to the end of the segment, a multiple of the alignment; 0 when all clusters are zero. */
  lengthBytes: number;
}

/**
 * Lays a segment's clusters out in the file. Plain clusters must lie at multiples of the cluster size and go together;
 * compressed ones fill the gap before them, the rest follows. The same sizes at the same start always give the same
 * places: the main thread, the copier thread and the tables all ask here.
 * @param start a multiple of `alignBytes`
 * @param alignBytes what the segment's length is rounded up to
 */
export function placeClusters(
  start: number,
  sizes: ClusterSizes,
  clusterBytes: number,
  alignBytes = WRITE_ALIGNMENT,
): Placement {
  const offsets = new Float64Array(sizes.length);
  let plain = 0;
  for (const size of sizes) if (size === clusterBytes) plain++;
  let at = start;
  const firstPlain = plain === 0 ? start : Math.ceil(start / clusterBytes) * clusterBytes;
  for (let i = 0; i < sizes.length && at < firstPlain; i++) {
    const size = sizes[i] ?? 0;
    if (size === 0 || size === clusterBytes || at + size > firstPlain) continue;
    offsets[i] = at;
    at += size;
  }
  at = firstPlain;
  for (let i = 0; i < sizes.length; i++) {
    if (sizes[i] !== clusterBytes) continue;
    offsets[i] = at;
    at += clusterBytes;
  }
  for (let i = 0; i < sizes.length; i++) {
    const size = sizes[i] ?? 0;
    if (size === 0 || offsets[i] !== 0) continue;
    offsets[i] = at;
    at += size;
  }
  return { offsets, lengthBytes: Math.ceil((at - start) / alignBytes) * alignBytes };
}
