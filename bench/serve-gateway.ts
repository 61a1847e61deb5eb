/** Serves stored files as the gateway process does, for bench/gateway.ts. Usage: node bench/serve-gateway.ts DISK-FILE */
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import type { ChainFile } from '../copier/contract.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import type { RepositoryLocation } from '../schemas/repository.ts';
import { serveDisks } from '../gateway/serve-disks.ts';
import { CACHE_BYTES } from '../gateway/spec.ts';

/** A disk of one file. */
export interface StoredDisk {
  socketPath: string;
  virtualSizeBytes: number;
  place: RepositoryLocation;
  key: string;
  file: Pick<ChainFile, 'storedBytes' | 'segments'>;
  /** Of an encrypted file. */
  encryption?: { payloadKey: string; plainBytes: number };
}

const [diskPath = ''] = process.argv.slice(2);
const stored = JSON.parse(readFileSync(diskPath, 'utf8')) as StoredDisk;
const { socketPath, virtualSizeBytes, encryption } = stored;
const store = openBlobStore(stored.place);
await store.statBlob(stored.key); // loads what a gateway has loaded when it has read sums
const source = store.source(stored.key);
const opened = encryption && { ...encryption, payloadKey: Buffer.from(encryption.payloadKey, 'hex') };
const disk = {
  exportName: 'vda',
  socketPath,
  virtualSizeBytes,
  chain: [{ ...stored.file, source, encryption: opened }],
};
const server = await serveDisks([disk], {
  cacheBytes: CACHE_BYTES,
  onProblem: (error) => {
    throw error;
  },
});
await once(process, 'SIGTERM');
await server[Symbol.asyncDispose]();
