import { SignatureV4 } from '@smithy/signature-v4';
import { createHash, createHmac, type Hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { placeText, type S3Place } from '../schemas/repository.ts';
import { BlobStoreError } from './blob-store.ts';
import { RangeReader } from './range-reader.ts';
import { credentialsOf, type S3Credentials } from './s3-credentials.ts';

/** More requests than this in flight to one server wait for each other. */
const MAX_SOCKETS = 64;

/** What all requests to one place share in one thread: where they go, how they are signed, and the connections. */
export interface S3Connection {
  readonly place: S3Place;
  /** The server's address, without the bucket. */
  readonly endpoint: URL;
  readonly signer: SignatureV4;
  /** To be told when the server refuses: other keys may be there by now. */
  readonly credentials: S3Credentials;
  agent(): Promise<HttpAgent | HttpsAgent>;
  /** For what is read over plain HTTP. */
  readonly ranges: RangeReader;
  /** Resolves when the server may be asked again; longer the more often it said that it has too much to do. */
  readonly pace: Pace;
}

const connections = new Map<string, S3Connection>();

/** The one connection of this thread to a place. Nothing is read or sent yet. */
export function connectionTo(place: S3Place): S3Connection {
  const name = JSON.stringify(place);
  const known = connections.get(name);
  if (known !== undefined) return known;
  const endpoint = new URL(place.endpoint ?? amazonEndpoint(place.region));
  let agent: Promise<HttpAgent | HttpsAgent> | undefined;
  const credentials = credentialsOf(place);
  const connection: S3Connection = {
    place,
    endpoint,
    credentials,
    // The host's own clock signs: the SDK would correct it silently, and the instants of backups come from the same clock.
    signer: new SignatureV4({
      service: 's3',
      region: place.region,
      credentials: credentials.keys,
      sha256: NodeSha256,
      uriEscapePath: false,
      applyChecksum: true,
    }),
    agent: () => (agent ??= openAgent(place, endpoint)),
    ranges: new RangeReader(),
    pace: new Pace(),
  };
  connections.set(name, connection);
  return connection;
}

/** Source: AWS general reference, "Amazon S3 endpoints" */
const amazonEndpoint = (region: string): string =>
  `https://s3.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`;

async function openAgent(place: S3Place, { protocol }: URL): Promise<HttpAgent | HttpsAgent> {
  const options = { keepAlive: true, maxSockets: MAX_SOCKETS };
  if (protocol === 'http:') return new HttpAgent(options);
  const { caFile } = place;
  if (caFile === null) return new HttpsAgent(options);
  const ca = await readFile(caFile).catch((error: unknown) => {
    throw new BlobStoreError('unavailable', `${placeText(place)}: CA file ${caFile}: ${String(error)}`, {
      cause: error,
    });
  });
  return new HttpsAgent({ ...options, ca });
}

const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 20_000;

/**
 * How fast a server takes requests. Each "slow down" doubles a pause that all requests of the thread keep, each answer
 * ends it; so many copies at once find the server's rate together.
 */
export class Pace {
  #pauseMs = 0;
  #untilMs = 0;

  /** Milliseconds until the next request may go. */
  waitMs(): number {
    return Math.max(0, this.#untilMs - Date.now());
  }

  slower(retryAfterMs: number | undefined): void {
    if (this.waitMs() > 0) return; // one answer of many that were on their way
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, Math.max(FIRST_PAUSE_MS, this.#pauseMs * 2));
    const pauseMs = retryAfterMs ?? this.#pauseMs * (0.5 + Math.random());
    this.#untilMs = Date.now() + Math.min(LONGEST_PAUSE_MS, pauseMs);
  }

  answered(): void {
    this.#pauseMs = 0;
  }
}

/** SHA-256, and HMAC with a key, as the signer wants them. */
class NodeSha256 {
  readonly #hash: Hash | ReturnType<typeof createHmac>;
  constructor(key?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', keyBytes(key));
  }
  update(data: Uint8Array): void {
    this.#hash.update(data);
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(this.#hash.digest());
  }
  reset(): void {
    throw new Error('a hash of a signature is used once');
  }
}

function keyBytes(key: string | ArrayBuffer | ArrayBufferView): string | Uint8Array {
  if (typeof key === 'string') return key;
  return ArrayBuffer.isView(key) ? new Uint8Array(key.buffer, key.byteOffset, key.byteLength) : new Uint8Array(key);
}
