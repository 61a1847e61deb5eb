import type { BlobSink, BlobSinkDescriptor } from './blob-store.ts';
import { openFileSink } from './file-sink.ts';

/**
 * Opens an upload for writing at any offset, in the thread that calls.
 * @throws BlobStoreError `full`, `read-only`, `unavailable`
 */
export const openSink = (descriptor: BlobSinkDescriptor): Promise<BlobSink> => openFileSink(descriptor);
