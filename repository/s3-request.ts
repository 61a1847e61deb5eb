import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { BlobStoreError } from './blob-store.ts';
import { freeMemory } from './free-memory.ts';
import { UnusualAnswer, type RangeRequest } from './range-reader.ts';
import type { S3Connection } from './s3-connection.ts';
import { isTransient, s3Error, troubleOf, troubleOfAnswer, type S3Trouble } from './s3-errors.ts';

/**
 * The requests that carry disk data. They go over node:http, reads without TLS over a `RangeReader`, and are signed without a look
 * at their body: the SDK's layers hash and copy it several times, which costs half of the rate. What was sent is protected by a checksum header that the server compares,
 * what is read by the hashes of the backup.
 */
export interface DataRequest {
  method: 'PUT' | 'GET' | 'HEAD';
  /** Key of the object in its bucket. */
  objectKey: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Uint8Array;
  /** Takes the body of a good answer, all of it: another length counts as no answer. Absent: the body is thrown away. */
  into?: Uint8Array;
  signal?: AbortSignal | undefined;
  /** For errors: "write part 5 of vm/disk-0/full.qcow2". */
  act: string;
  key: string;
}

export interface DataAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  /** Bytes that came into the memory. */
  readBytes: number;
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
const complete = (answer: DataAnswer | Failed, { into }: DataRequest): DataAnswer | Failed =>
  'trouble' in answer || into === undefined || answer.readBytes === into.length
    ? answer
    : { trouble: { code: 'IncompleteBody', message: 'the answer ended early' } };

interface Failed {
  trouble: S3Trouble;
  retryAfterMs?: number | undefined;
  cause?: unknown;
}

async function tryOnce(connection: S3Connection, request: DataRequest): Promise<DataAnswer | Failed> {
  const { method, objectKey, query = {}, body, into, signal } = request;
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
  const queryText = Object.entries(query).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const target = queryText.length === 0 ? path : `${path}?${queryText.join('&')}`;
  const send = protocol === 'https:' ? httpsRequest : httpRequest;
  try {
    if (into !== undefined && protocol === 'http:') {
      const found = await readRange(connection, {
        hostname,
        port,
        path: target,
        headers: signed.headers,
        into,
        signal,
      });
      if (found) return found;
    }
    const agent = await connection.agent();
    return await new Promise<DataAnswer | Failed>((resolve, reject) => {
      const sent = send({
        method,
        hostname,
        port,
        path: target,
        headers: signed.headers,
        agent,
        ...(signal ? { signal } : {}),
      });
      sent.setTimeout(STALLED_MS, () => {
        sent.destroy(Object.assign(new Error(`no byte for ${STALLED_MS / 1000} seconds`), { code: 'ETIMEDOUT' }));
      });
      sent.on('error', reject);
      sent.on('response', (answer) => {
        readAnswer(answer, into).then(resolve, reject);
      });
      sent.end(body);
    });
  } catch (error) {
    if (error instanceof BlobStoreError) throw error;
    return { trouble: troubleOf(error), cause: error };
  }
}

/** undefined: the answer is of a kind that node:http reads better. */
async function readRange(
  { ranges }: S3Connection,
  request: Omit<RangeRequest, 'port' | 'stalledMs'> & { port?: number | undefined },
): Promise<DataAnswer | Failed | undefined> {
  const answer = await ranges.get({ ...request, port: request.port ?? 80, stalledMs: STALLED_MS }).catch(unlessUnusual);
  return answer && judged(answer, answer.said);
}

function unlessUnusual(error: unknown): undefined {
  if (!(error instanceof UnusualAnswer)) throw error;
}

async function readAnswer(answer: IncomingMessage, into?: Uint8Array): Promise<DataAnswer | Failed> {
  const { statusCode: status = 0, headers } = answer;
  const said: Buffer[] = [];
  let saidBytes = 0;
  let readBytes = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    if (isGood(status)) {
      if (into && readBytes + chunk.length > into.length) throw new Error(`more than ${into.length} bytes came`);
      into?.set(chunk, readBytes);
      readBytes += chunk.length;
      if (chunk.length === chunk.buffer.byteLength) freeMemory(chunk); // no other part of the answer lies in it
    } else if (saidBytes < ERROR_BODY_BYTES) {
      said.push(chunk);
      saidBytes += chunk.length;
    }
  }
  return judged({ status, headers, readBytes }, Buffer.concat(said).toString('utf8'));
}

const isGood = (status: number): boolean => status >= 200 && status < 300;

/** @param said the body of an answer that is not good */
function judged({ status, headers, readBytes }: DataAnswer, said: string): DataAnswer | Failed {
  if (isGood(status)) return { status, headers, readBytes };
  const seconds = Number(headers['retry-after']);
  return {
    trouble: troubleOfAnswer(status, said),
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
