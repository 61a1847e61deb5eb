import { CompleteAsyncError, type Context } from '@temporalio/activity';
import { ApplicationFailure, CancelledFailure, TemporalFailure } from '@temporalio/common';
import type { ActivityInboundCallsInterceptor, ActivityInterceptors } from '@temporalio/worker';
import { CopierError } from '../copier/contract.ts';
import { DomainXmlError } from '../libvirt/domain-xml.ts';
import { LibvirtConnectionLost, LibvirtError, LibvirtRefused, LibvirtTimeout } from '../libvirt/errors.ts';
import { BlobStoreError } from '../repository/blob-store.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import { FAILURES, HoldfastError, type FailureType } from '../schemas/failures.ts';

const BLOB_STORE: Record<BlobStoreError['code'], FailureType> = {
  'not-found': 'BackupFileMissing',
  exists: 'DestinationExists',
  full: 'RepositoryFull',
  'read-only': 'RepositoryReadOnly',
  unavailable: 'RepositoryUnavailable',
  'too-large': 'IntegrityMismatch',
  'invalid-key': 'InvalidRequest',
  denied: 'RepositoryAccessDenied',
  'no-bucket': 'RepositoryUnavailable',
  'clock-skew': 'HostClockWrong',
  locked: 'BackupLocked',
};
const COPIER: Record<CopierError['code'], FailureType> = {
  integrity: 'IntegrityMismatch',
  'file-missing': 'BackupFileMissing',
  'job-lost': 'NbdConnectionLost',
  'journal-mismatch': 'BackupJobLost',
  'destination-full': 'DestinationFull',
  'destination-exists': 'DestinationExists',
};
const REPOSITORY: Record<RepositoryError['code'], FailureType> = {
  'not-a-repository': 'RepositoryUnavailable',
  foreign: 'RepositoryForeign',
  owned: 'RepositoryOwned',
  'encryption-mismatch': 'EncryptionMismatch',
  'key-missing': 'KeyMissing',
  'key-wrong': 'KeyWrong',
  'unsupported-version': 'RepositoryForeign',
  invalid: 'IntegrityMismatch',
};

/**
 * How often a step is tried whose error nobody foresaw, so that every run has an end: about half an hour with the longest
 * pauses between attempts, enough for a catalog or a disk to come back.
 */
const UNFORESEEN_ATTEMPTS = 120;
/** The same for mistakes in the code, which time does not heal. */
const MISTAKE_ATTEMPTS = 5;

/** The failure a known error is reported as; undefined for errors nobody foresaw, which are retried within a bound. */
export function failureTypeOf(error: unknown): FailureType | undefined {
  if (error instanceof HoldfastError) return error.type;
  if (error instanceof BlobStoreError) return BLOB_STORE[error.code];
  if (error instanceof CopierError) return COPIER[error.code];
  if (error instanceof RepositoryError) return REPOSITORY[error.code];
  if (error instanceof DomainXmlError) return 'VmDefinitionInvalid';
  if (error instanceof LibvirtConnectionLost || error instanceof LibvirtTimeout) return 'HostUnreachable';
  if (error instanceof LibvirtRefused) return 'HostRefused';
  if (error instanceof LibvirtError) return 'HypervisorError';
  return undefined;
}

class FailureMapping implements ActivityInboundCallsInterceptor {
  readonly #context: Context;
  constructor(context: Context) {
    this.#context = context;
  }

  async execute(
    ...[input, next]: Parameters<NonNullable<ActivityInboundCallsInterceptor['execute']>>
  ): Promise<unknown> {
    try {
      return await next(input);
    } catch (error) {
      if (error instanceof TemporalFailure || error instanceof CompleteAsyncError) throw error;
      // What an aborted step throws is the signal's reason or the error of what it was in the middle of.
      if (this.#context.cancellationSignal.aborted)
        throw new CancelledFailure('the step was cancelled', [], asError(error));
      const type = failureTypeOf(error);
      if (type === undefined) {
        if (this.#context.info.attempt < (isMistake(error) ? MISTAKE_ATTEMPTS : UNFORESEEN_ATTEMPTS)) throw error;
        throw ApplicationFailure.create({
          type: 'Error',
          nonRetryable: true,
          message: `tried ${this.#context.info.attempt} times: ${asError(error).message}`,
          cause: asError(error),
        });
      }
      throw ApplicationFailure.create({
        type,
        nonRetryable: !FAILURES[type].retryable,
        message: error instanceof Error ? error.message : String(error),
        cause: asError(error),
      });
    }
  }
}

const isMistake = (error: unknown): boolean =>
  [TypeError, ReferenceError, RangeError, SyntaxError].some((mistake) => error instanceof mistake) ||
  asError(error).name === 'ZodError';

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

/** Turns the errors of the folders below into failures that workflows branch on. */
export const failureInterceptor = (context: Context): ActivityInterceptors => ({
  inbound: new FailureMapping(context),
});
