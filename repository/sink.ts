import { BlobStoreError, type BlobSink, type BlobSinkDescriptor, type BlobUpload } from './blob-store.ts';
import { openFileSink } from './file-sink.ts';

/**
 * Opens an upload for writing at any offset, in the thread that calls.
 * @throws BlobStoreError `full`, `read-only`, `unavailable`
 */
export const openSink = (descriptor: BlobSinkDescriptor): Promise<BlobSink> => openFileSink(descriptor);

/** The file an upload goes to. @throws BlobStoreError `unavailable` for an upload in parts */
export function fileSinkOf({ sink }: Pick<BlobUpload, 'sink'>): BlobSinkDescriptor {
  if (sink.kind === 'file') return sink;
  throw new BlobStoreError('unavailable', `${sink.blobKey}: is uploaded in parts, not as a file`, {
    key: sink.blobKey,
  });
}
