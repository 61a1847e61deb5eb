import { SignatureV4 } from '@smithy/signature-v4';
import { createHash, createHmac, type Hash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { inFlight } from '../copier/in-flight.ts';
import type { S3Place } from '../schemas/repository.ts';
import { MIB } from './disk-content.ts';

/** Parts of 16 MiB, four at once: the quickest of a series on this kind of machine. */
const PART_BYTES = 16 * MIB;
const AT_ONCE = 4;

/** The least that an S3 client can do: signed requests over node:http, bodies unsigned and without checksums. */
export interface PlainS3 {
  /** Uploads a file as an object, in parts. */
  upload(path: string, key: string): Promise<void>;
  /** Reads an object in ranges, into nothing. */
  download(key: string): Promise<void>;
}

export function plainS3(place: S3Place, keys: { accessKeyId: string; secretAccessKey: string }): PlainS3 {
  const endpoint = new URL(place.endpoint ?? '');
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const signer = new SignatureV4({
    service: 's3',
    region: place.region,
    credentials: keys,
    sha256: NodeSha256,
    uriEscapePath: false,
  });

  async function send(
    method: string,
    key: string,
    {
      query = {},
      body,
      headers = {},
    }: { query?: Record<string, string>; body?: Uint8Array; headers?: Record<string, string> },
    take: (chunk: Buffer) => void,
  ): Promise<Record<string, unknown>> {
    const path = `/${place.bucket}/${key}`;
    const host = endpoint.host;
    const signed = await signer.sign({
      method,
      protocol: 'http:',
      hostname: endpoint.hostname,
      path,
      query,
      headers: { ...headers, host, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' },
    });
    const text = new URLSearchParams(query).toString();
    return await new Promise((resolve, reject) => {
      const sent = request({
        agent,
        method,
        hostname: endpoint.hostname,
        port: endpoint.port,
        path: text === '' ? path : `${path}?${text}`,
        headers: { ...signed.headers, 'content-length': String(body?.length ?? 0) },
      });
      sent.on('error', reject);
      sent.on('response', (answer) => {
        if ((answer.statusCode ?? 500) >= 300) reject(new Error(`${method} ${key}: ${answer.statusCode}`));
        answer.on('data', take);
        answer.on('end', () => resolve(answer.headers));
        answer.on('error', reject);
      });
      sent.end(body);
    });
  }
  const nothing = (): undefined => undefined;

  return {
    async upload(path, key) {
      await using file = await open(path);
      const { size } = await file.stat();
      let begun = '';
      await send('POST', key, { query: { uploads: '' } }, (chunk) => (begun += chunk.toString()));
      const uploadId = /<UploadId>(.*)<\/UploadId>/.exec(begun)?.[1] ?? '';
      const etags: string[] = [];
      await inFlight(
        Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, n) => n),
        {
          limit: AT_ONCE,
          stop: nothing,
          work: async (n) => {
            const { buffer, bytesRead } = await file.read({
              buffer: Buffer.allocUnsafe(PART_BYTES),
              position: n * PART_BYTES,
            });
            const query = { partNumber: String(n + 1), uploadId };
            etags[n] = String(
              (await send('PUT', key, { query, body: buffer.subarray(0, bytesRead) }, nothing))['etag'],
            );
          },
        },
      );
      const parts = etags.map((etag, n) => `<Part><PartNumber>${n + 1}</PartNumber><ETag>${etag}</ETag></Part>`);
      const body = Buffer.from(`<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`);
      await send('POST', key, { query: { uploadId }, body }, nothing);
    },
    async download(key) {
      const size = Number((await send('HEAD', key, {}, nothing))['content-length']);
      await inFlight(
        Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, n) => n * PART_BYTES),
        {
          limit: AT_ONCE,
          stop: nothing,
          work: async (at) => {
            const headers = { range: `bytes=${at}-${Math.min(size, at + PART_BYTES) - 1}` };
            await send('GET', key, { headers }, nothing);
          },
        },
      );
    },
  };
}

/** SHA-256, and HMAC with a key, as the signer wants them. */
class NodeSha256 {
  readonly #hash: Hash | ReturnType<typeof createHmac>;
  constructor(key?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', Buffer.from(key as Uint8Array));
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
