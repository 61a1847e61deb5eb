import { afterAll, beforeAll, describe } from 'vitest';
import { createS3Store } from '../../repository/s3-store.ts';
import { blobStoreSuite } from '../support/blob-store-suite.ts';
import { missingS3Server, S3_SERVERS, startS3Server, type S3Server } from '../support/s3-server.ts';

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
  });
});
