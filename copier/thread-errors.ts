import { BlobStoreError, type BlobStoreErrorCode } from '../repository/blob-store.ts';
import { CopierError, type CopierErrorCode } from './contract.ts';

/** An Error as plain data: a structured clone would lose its class and its own fields. */
export interface ErrorRecord {
  name: string;
  message: string;
  stack?: string | undefined;
  /** BlobStoreError and CopierError: their code; others: `code` of the operating system or of Node. */
  code?: string | undefined;
  /** `key` of a BlobStoreError, `file` of a CopierError. */
  subject?: string | undefined;
  cause?: ErrorRecord | undefined;
}

/** Writes down an error and up to eight of its causes. */
export function recordError(error: unknown, depth = 8): ErrorRecord {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) };
  const subject = error instanceof BlobStoreError ? error.key : error instanceof CopierError ? error.file : undefined;
  return {
    name: error.name,
    message: error.message,
    stack: error.stack,
    code: 'code' in error && typeof error.code === 'string' ? error.code : undefined,
    subject,
    cause: error.cause !== undefined && depth > 0 ? recordError(error.cause, depth - 1) : undefined,
  };
}

/** The error again, of its class where the copier's callers branch on it; any other becomes an Error of the same name. */
export function reviveError(record: ErrorRecord): Error {
  const options = record.cause ? { cause: reviveError(record.cause) } : {};
  let error: Error;
  if (record.name === 'BlobStoreError') {
    const key = record.subject === undefined ? {} : { key: record.subject };
    error = new BlobStoreError(record.code as BlobStoreErrorCode, record.message, { ...options, ...key });
  } else if (record.name === 'CopierError') {
    const file = record.subject === undefined ? {} : { file: record.subject };
    error = new CopierError(record.code as CopierErrorCode, record.message, { ...options, ...file });
  } else {
    error = new Error(record.message, options);
    Object.defineProperty(error, 'name', { value: record.name, configurable: true, writable: true });
    if (record.code !== undefined) Object.assign(error, { code: record.code });
  }
  if (record.stack !== undefined) error.stack = record.stack;
  return error;
}
