import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { BlobStoreError } from './blob-store.ts';
import type { S3Connection } from './s3-connection.ts';
import { isTransient, s3Error, troubleOf, troubleOfAnswer, type S3Trouble } from './s3-errors.ts';

/**
 * The requests that carry disk data. They go over node:http and are signed without a look at their body: the SDK's layers hash and
 * copy it several times, which costs half of the rate. What was sent is protected by a checksum header that the server compares,
 * what is read by the hashes of the backup.
 */
export interface DataRequest {
  method: 'PUT' | 'GET' | 'HEAD';
  /** Key of the object in its bucket. */
  objectKey: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Uint8Array;
  /** Called before each try. */
  begin?: () => void;
  /** Takes the body of a good answer; may throw, which counts as no answer. Absent: the body is thrown away. */
  receive?: (chunk: Buffer) => void;
  /** Whether all of the body has come; asked at its end. */
  isComplete?: () => boolean;
  signal?: AbortSignal | undefined;
  /** For errors: "write part 5 of vm/disk-0/full.qcow2". */
  act: string;
  key: string;
}

export interface DataAnswer {
  status: number;
  headers: IncomingHttpHeaders;
}

const TRIES = 6;
/** Without a byte in either direction for this long a try is given up. */
const STALLED_MS = 30_000;
const FIRST_DELAY_MS = 200;
const LONGEST_DELAY_MS = 10_000;
const ERROR_BODY_BYTES = 65_536;

/**
 * Sends a request until it is answered, at most six times: after no answer, 5xx and a body that suffered on its way, with growing
 * pauses or those that the server asks for. This is the one place below Temporal where data requests are tried again.
 * @throws BlobStoreError; the signal's reason
 */
export async function sendData(connection: S3Connection, request: DataRequest): Promise<DataAnswer> {
  const { signal, act, key } = request;
  for (let tries = 1; ; tries += 1) {
    const waitMs = connection.pace.waitMs();
    if (waitMs > 0) await delay(waitMs, undefined, { ...(signal ? { signal } : {}) });
    signal?.throwIfAborted();
    request.begin?.();
    const answer = complete(await tryOnce(connection, request), request);
    if (!('trouble' in answer)) {
      connection.pace.answered();
      return answer;
    }
    signal?.throwIfAborted();
    const { trouble, retryAfterMs, cause } = answer;
    if (!isTransient(trouble) || tries === TRIES) {
      const error = s3Error(connection.place, { act, key, tries }, trouble, cause);
      if (error.code === 'denied') connection.credentials.forget();
      throw error;
    }
    if (trouble.status === 503 || trouble.status === 429) connection.pace.slower(retryAfterMs);
    const pauseMs = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (tries - 1)) * (0.5 + Math.random());
    await delay(pauseMs, undefined, { ...(signal ? { signal } : {}) });
  }
}

/** A good answer whose body ended early is none. */
const complete = (answer: DataAnswer | Failed, { isComplete }: DataRequest): DataAnswer | Failed =>
  'trouble' in answer || isComplete === undefined || isComplete()
    ? answer
    : { trouble: { code: 'IncompleteBody', message: 'the answer ended early' } };

interface Failed {
  trouble: S3Trouble;
  retryAfterMs?: number | undefined;
  cause?: unknown;
}

async function tryOnce(connection: S3Connection, request: DataRequest): Promise<DataAnswer | Failed> {
  const { method, objectKey, query = {}, body, receive, signal } = request;
  const address = addressOf(connection, objectKey);
  const headers = {
    ...request.headers,
    host: address.host,
    'x-amz-content-sha256': 'UNSIGNED-PAYLOAD',
    ...(body === undefined ? {} : { 'content-length': String(body.length) }),
  };
  const { protocol, hostname, port, path } = address;
  // Errors of the credentials are the store's already.
  const signed = await connection.signer.sign({ method, protocol, hostname, path, query, headers });
  const agent = await connection.agent();
  const queryText = Object.entries(query).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const send = protocol === 'https:' ? httpsRequest : httpRequest;
  try {
    return await new Promise<DataAnswer | Failed>((resolve, reject) => {
      const sent = send({
        method,
        hostname,
        port,
        path: queryText.length === 0 ? path : `${path}?${queryText.join('&')}`,
        headers: signed.headers,
        agent,
        ...(signal ? { signal } : {}),
      });
      sent.setTimeout(STALLED_MS, () => {
        sent.destroy(Object.assign(new Error(`no byte for ${STALLED_MS / 1000} seconds`), { code: 'ETIMEDOUT' }));
      });
      sent.on('error', reject);
      sent.on('response', (answer) => {
        readAnswer(answer, receive).then(resolve, reject);
      });
      sent.end(body);
    });
  } catch (error) {
    if (error instanceof BlobStoreError) throw error;
    return { trouble: troubleOf(error), cause: error };
  }
}

async function readAnswer(answer: IncomingMessage, receive?: (chunk: Buffer) => void): Promise<DataAnswer | Failed> {
  const { statusCode: status = 0, headers } = answer;
  const isGood = status >= 200 && status < 300;
  const said: Buffer[] = [];
  let saidBytes = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    if (isGood) {
      receive?.(chunk);
    } else if (saidBytes < ERROR_BODY_BYTES) {
      said.push(chunk);
      saidBytes += chunk.length;
    }
  }
  if (isGood) return { status, headers };
  const seconds = Number(headers['retry-after']);
  return {
    trouble: troubleOfAnswer(status, Buffer.concat(said).toString('utf8')),
    ...(Number.isFinite(seconds) && seconds > 0 ? { retryAfterMs: seconds * 1000 } : {}),
  };
}

/** Keys need no escaping: they have letters, digits, ".", "_", "-" and "/" only. */
function addressOf({ place, endpoint }: S3Connection, objectKey: string) {
  const { bucket, pathStyle } = place;
  const base = endpoint.pathname.replace(/\/$/, '');
  const hostname = pathStyle ? endpoint.hostname : `${bucket}.${endpoint.hostname}`;
  return {
    protocol: endpoint.protocol,
    hostname: hostname.replace(/^\[(.*)\]$/, '$1'),
    host: endpoint.port === '' ? hostname : `${hostname}:${endpoint.port}`,
    path: pathStyle ? `${base}/${bucket}/${objectKey}` : `${base}/${objectKey}`,
    ...(endpoint.port === '' ? {} : { port: Number(endpoint.port) }),
  };
}
