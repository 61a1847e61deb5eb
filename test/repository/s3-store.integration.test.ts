import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createS3Store } from '../../repository/s3-store.ts';
import { blobStoreSuite } from '../support/blob-store-suite.ts';
import { missingS3Server, S3_SERVERS, startS3Server, type S3Server } from '../support/s3-server.ts';

const MIB = 1024 ** 2;

describe.each(S3_SERVERS)('S3 store on %s', (kind) => {
  const missing = missingS3Server(kind);
  describe.skipIf(missing !== undefined)(missing ?? 'fulfils the contract', () => {
    let server: S3Server;
    beforeAll(async () => {
      server = await startS3Server(kind);
    });
    afterAll(async () => await server[Symbol.asyncDispose]());

    blobStoreSuite(async () => {
      const place = await server.newPlace();
      return { store: createS3Store(place), reopen: () => createS3Store(place) };
    });

    it('moves what is too large for one copy in parts, and leaves nothing of them', async () => {
      const place = await server.newPlace();
      const content = randomBytes(12 * MIB + 1);
      await createS3Store(place).putBlob('from', content);
      const store = createS3Store(place, { wholeBytes: 12 * MIB, partBytes: 5 * MIB });
      await store.putBlob('to', Buffer.from('the former content'));
      await store.moveBlob('from', 'to');
      expect((await store.getBlob('to')).equals(content)).toBe(true);
      expect(await store.statBlob('from')).toBeUndefined();
      expect(await Array.fromAsync(store.listUploads(''))).toEqual([]);
    });
  });
});
