import { createAgeHead } from '../repository/age-head.ts';
import type { RecryptOptions, RecryptResult, SegmentSum } from './contract.ts';
import { PLAIN_FORM, sealedForm } from './file-form.ts';
import { imageBytes } from './image-segments.ts';
import { putFile } from './put-file.ts';
import type { RecryptSegmentTask } from './recrypt-segment.ts';
import { cutAnew, type RecryptStretch } from './recrypt-stretches.ts';
import type { ThreadPool } from './thread-pool.ts';

/**
 * Writes a stored file into another place in another form: see `CopierPool.recryptFile`.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function recryptFile(threads: ThreadPool, options: RecryptOptions): Promise<RecryptResult> {
  const { file, recipient } = options;
  const { source, encryption } = file;
  const key = recipient === undefined ? undefined : await createAgeHead(recipient);
  const form = key === undefined ? PLAIN_FORM : sealedForm(key);
  const segments: SegmentSum[] = [];
  await putFile<RecryptStretch, string>(
    threads,
    { ...options, resumed: false },
    {
      stretches: () => cutAnew(file, form),
      taskOf: (stretch, to, resources): RecryptSegmentTask => ({
        kind: 'recrypt-segment',
        source,
        encryption,
        stretch,
        head: stretch.offset === 0 ? form.head : new Uint8Array(0),
        payloadKey: key?.payloadKey,
        to,
        resources,
      }),
      isPut: ({ offset, lengthBytes }, sha256) => {
        segments.push({ offset, lengthBytes, sha256 });
        return lengthBytes;
      },
    },
  );
  const plainBytes = imageBytes(file);
  return {
    storedBytes: form.storedLength(plainBytes),
    plainBytes,
    segments: segments.sort((a, b) => a.offset - b.offset),
  };
}
