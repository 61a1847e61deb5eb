import { readFile } from 'node:fs/promises';
import { chainMap } from '../../qcow2/chain-map.ts';
import { decompressCluster } from '../../qcow2/decompress.ts';
import { openQcow2 } from '../../qcow2/reader.ts';
import type { StoredBytes } from '../../qcow2/reader.ts';

/** An image in memory. Reading outside of it fails the test: the reader must have checked that. */
export const inMemory = (content: Buffer): StoredBytes => ({
  sizeBytes: content.length,
  read: (offset, lengthBytes) => {
    if (offset < 0 || lengthBytes < 0 || offset + lengthBytes > content.length) {
      return Promise.reject(new Error(`read of ${lengthBytes} bytes at ${offset} of ${content.length}`));
    }
    return Promise.resolve(content.subarray(offset, offset + lengthBytes));
  },
});

/** What a guest reads through a chain of images in memory, base first. */
export async function readChain(contents: readonly Buffer[]): Promise<Buffer> {
  const chain = await Promise.all(contents.map((content) => openQcow2(inMemory(content))));
  const guest = Buffer.alloc(chain.at(-1)!.header.virtualSizeBytes);
  for await (const stretches of chainMap(chain)) {
    for (const { file, kind, guestOffset, lengthBytes, hostOffset, storedBytes, innerOffset } of stretches) {
      const content = contents[file]!;
      const { clusterBytes, compression } = chain[file]!.header;
      const bytes =
        kind === 'plain'
          ? content.subarray(hostOffset, hostOffset + lengthBytes)
          : decompressCluster(
              content.subarray(hostOffset, hostOffset + storedBytes),
              compression,
              clusterBytes,
            ).subarray(innerOffset, innerOffset + lengthBytes);
      bytes.copy(guest, guestOffset);
    }
  }
  return guest;
}

export const readImages = (paths: readonly string[]): Promise<Buffer[]> =>
  Promise.all(paths.map((path) => readFile(path)));
