import type { SegmentSum, TransferOptions, TransferResult } from './contract.ts';
import { putFile } from './put-file.ts';
import type { ThreadPool } from './thread-pool.ts';
import type { TransferSegmentTask } from './transfer-segment.ts';

/**
 * Writes a stored file into another place, byte for byte: see `CopierPool.transferFile`.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function transferFile(threads: ThreadPool, options: TransferOptions): Promise<TransferResult> {
  const { file, resumed } = options;
  const writtenBytes = await putFile<SegmentSum, number>(threads, options, {
    stretches: () => file.segments,
    taskOf: (segment, to, resources): TransferSegmentTask => ({
      kind: 'transfer-segment',
      source: file.source,
      segment,
      to: to.kind === 'file' ? { ...to, resumed } : to,
      resources,
    }),
    isPut: (_, bytes) => bytes,
  });
  return { writtenBytes };
}
