import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import { HEADER_READ_BYTES, readHeader } from '../qcow2/read-header.ts';
import type { ImageHeader } from '../qcow2/read-header.ts';
import { altered, checkSegments, checkSize, openStored } from './chain-source.ts';
import type { RestoreDiskOptions } from './contract.ts';
import { checkChain } from './restore-plan.ts';
import { VerifiedBytes } from './verified-bytes.ts';

/**
 * Proves, before QEMU opens the files of a chain, that each has its length, names the one before it and nothing else, and
 * that the last has the disk's size. Headers are compared with the sums before they are believed; no data is read.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export async function checkChainHeaders({
  chain,
  virtualSizeBytes,
  signal,
}: Pick<RestoreDiskOptions, 'chain' | 'virtualSizeBytes' | 'signal'>): Promise<void> {
  const readers: { header: ImageHeader }[] = [];
  for (const file of chain) {
    checkSegments(file);
    await using source = await openStored(file.source);
    await checkSize(source, file);
    const bytes = new VerifiedBytes(file, source, signal);
    const start = await bytes.read(0, Math.min(HEADER_READ_BYTES, bytes.sizeBytes));
    try {
      readers.push({ header: readHeader(start, bytes.sizeBytes) });
    } catch (error) {
      if (!(error instanceof Qcow2Error)) throw error;
      throw altered(file.source.blobKey, error.message, error);
    }
  }
  checkChain(chain, readers, virtualSizeBytes);
}
