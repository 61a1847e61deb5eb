import { placeText, type S3Place } from '../schemas/repository.ts';
import { BlobStoreError, type BlobStoreErrorCode } from './blob-store.ts';

/**
 * What an S3 server said, or what came in between. `code` is the server's ("NoSuchKey"), Node's ("ECONNREFUSED") or the SDK's name
 * of the error; `status` is absent when there was no answer.
 */
export interface S3Trouble {
  code: string;
  message: string;
  status?: number | undefined;
}

/**
 * Codes of S3 and of servers that speak it. Sources: Amazon S3 API reference, "Error responses"; minio cmd/api-errors.go;
 * versitygw s3err/s3err.go; Ceph rgw_common.cc.
 */
const BY_CODE: Record<string, BlobStoreErrorCode> = {
  AccessDenied: 'denied',
  AccountProblem: 'denied',
  AuthorizationHeaderMalformed: 'denied', // another region than the server's
  CredentialsProviderError: 'denied',
  ExpiredToken: 'denied',
  InvalidAccessKeyId: 'denied',
  InvalidToken: 'denied',
  SignatureDoesNotMatch: 'denied',
  NoSuchBucket: 'no-bucket',
  RequestTimeTooSkewed: 'clock-skew',
  RequestExpired: 'clock-skew',
  QuotaExceeded: 'full',
  InsufficientStorage: 'full',
  XMinioAdminBucketQuotaExceeded: 'full',
  XMinioStorageFull: 'full',
  ObjectLocked: 'locked',
  NoSuchKey: 'not-found',
  NotFound: 'not-found',
  NoSuchUpload: 'not-found',
  PreconditionFailed: 'exists',
};
/** Servers have no code of its own for what object lock refuses: AWS says AccessDenied, minio InvalidRequest. */
const LOCKED = /WORM protected|object lock/i;
/** Worth another try: see `isTransient`. */
const TRANSIENT = new Set([
  'SlowDown',
  'RequestTimeout',
  'InternalError',
  'ServiceUnavailable',
  'IncompleteBody',
  'BadDigest',
  'XAmzContentChecksumMismatch',
  'OperationAborted',
  'ConditionalRequestConflict',
]);

/** Whether the same request may be answered better soon: no answer at all, 5xx, or a body that suffered on its way. */
export const isTransient = ({ code, status }: S3Trouble): boolean =>
  status === undefined
    ? code !== 'CredentialsProviderError' && !CERTIFICATE.test(code)
    : TRANSIENT.has(code) || [408, 429, 500, 502, 503, 504].includes(status);

function codeOf(trouble: S3Trouble): BlobStoreErrorCode {
  const { code, status, message } = trouble;
  if ((code === 'AccessDenied' || code === 'InvalidRequest') && LOCKED.test(message)) return 'locked';
  const known = BY_CODE[code] ?? (trouble.status === undefined && CERTIFICATE.test(code) ? 'unavailable' : undefined);
  if (known !== undefined) return known;
  if (isTransient(trouble)) return 'unavailable';
  if (status === 404 && code === '') return 'not-found'; // an answer to HEAD; versitygw also says 404 of an unknown user
  if (status === 412) return 'exists';
  if (status === 507) return 'full';
  if (status !== undefined && status >= 300 && status < 400) return 'no-bucket'; // it lies in another region
  return 'denied'; // the server does not want this request, and will not want it later
}

/** Names of what Node finds wrong with a certificate. Source: Node.js, tls.html, "X509 certificate error codes" */
const CERTIFICATE = /CERT|SELF_SIGNED|^UNABLE_TO_|ISSUER/;
const REMEDIES: Partial<Record<BlobStoreErrorCode, string>> = {
  denied: 'look at the credentials on this host and at the policy of the bucket',
  'no-bucket': 'is the bucket there, in this region?',
  'clock-skew': 'set the clock of this host',
};

/** What to do when the server is spoken to in the wrong way; undefined when it is not that. */
function remedyOfAddress({ endpoint, pathStyle }: S3Place, { code, status }: S3Trouble): string | undefined {
  if (status === undefined && CERTIFICATE.test(code)) return 'name the certificate of the server with --ca-file';
  if (code === 'EPROTO') return 'does the server speak https there, or plain http?';
  if (code === 'ENOTFOUND' && endpoint !== null) {
    return `is the address right?${pathStyle ? '' : ' With --path-style the bucket is not made part of it'}`;
  }
  // Go's net/http, which many servers are made with, answers plain words to plain http where it expects https.
  const isPlainText = status === 400 && code === '' && endpoint?.startsWith('http:') === true;
  return isPlainText ? 'does the server want https there?' : undefined;
}

/** The store's error for a trouble. `act` says what was tried: "write vm/disk-0/full.qcow2". Names no credentials. */
export function s3Error(
  place: S3Place,
  { act, key, tries = 1 }: { act: string; key?: string; tries?: number },
  trouble: S3Trouble,
  cause?: unknown,
): BlobStoreError {
  const code = codeOf(trouble);
  const said = [trouble.status, plain(trouble.code, 60), plain(trouble.message, 300)].filter(Boolean).join(' ');
  const words = remedyOfAddress(place, trouble) ?? REMEDIES[code];
  const remedy = words === undefined ? '' : `; ${words}`;
  return new BlobStoreError(
    code,
    `${placeText(place)}: cannot ${act}: ${said}${tries > 1 ? ` (tried ${tries} times)` : ''}${remedy}`,
    { ...(key === undefined ? {} : { key }), ...(cause === undefined ? {} : { cause }) },
  );
}

/** What a server says is text from outside: one line, not long. */
const plain = (text: string, atMost: number): string => text.replaceAll(/[\p{C}\s]+/gu, ' ').slice(0, atMost);

/** What the SDK threw. Its errors carry the server's code as their name, those of the network Node's as `code`. */
export function troubleOf(error: unknown): S3Trouble {
  if (!(error instanceof Error)) return { code: 'Error', message: String(error) };
  const { $metadata, code } = error as { $metadata?: { httpStatusCode?: number }; code?: unknown };
  const status = $metadata?.httpStatusCode;
  const isOfNetwork = status === undefined && typeof code === 'string';
  // An answer without a body, as those to HEAD, has no code; then the SDK makes names like "UnknownError" or "403".
  return { code: isOfNetwork ? code : error.name, message: error.message || nested(error), status };
}

/** An AggregateError, of all addresses of a host that were tried, has no message of its own. */
const nested = (error: Error): string =>
  error instanceof AggregateError ? error.errors.map((each: unknown) => String(each)).join(', ') : error.name;

/**
 * Whether it may be what the answer to a HEAD leaves open: it has no body to tell a missing bucket from a missing object, or a wrong
 * clock from wrong keys. A GET of the same object tells.
 */
export const isOfHead = (error: unknown): error is BlobStoreError =>
  error instanceof BlobStoreError && (error.code === 'not-found' || error.code === 'denied');

/**
 * The error document of an S3 answer, as far as it can be read: XML with `Code` and `Message`.
 * Source: Amazon S3 API reference, "REST error responses"
 */
export function troubleOfAnswer(status: number, body: string): S3Trouble {
  const field = (name: string): string | undefined => new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(body)?.[1];
  return { status, code: field('Code') ?? '', message: field('Message') ?? '' };
}
