import { WorkflowFailedError } from '@temporalio/client';
import {
  ApplicationFailure,
  CancelledFailure,
  TemporalFailure,
  TerminatedFailure,
  TimeoutFailure,
} from '@temporalio/common';
import { ZodError } from 'zod';
import { LibvirtAddressError } from '../libvirt/address.ts';
import { failureTypeOf } from '../workers/failure-interceptor.ts';

export interface DescribedFailure {
  /** A name of docs/failures.md, or `Cancelled`, `Terminated`, `UsageError`, `Error`. */
  type: string;
  message: string;
  /** The request was wrong in itself: nothing was begun. */
  isUsage: boolean;
}

/** What people and scripts are told of an error. */
export function describeFailure(error: unknown): DescribedFailure {
  if (error instanceof LibvirtAddressError) return { type: 'UsageError', message: error.message, isUsage: true };
  if (error instanceof ZodError) {
    const message = error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
    return { type: 'InvalidRequest', message, isUsage: true };
  }
  if (error instanceof WorkflowFailedError) return describeRun(error.cause ?? error);
  const message = error instanceof Error ? error.message : String(error);
  return failed(failureTypeOf(error) ?? 'Error', message);
}

function describeRun(failure: Error): DescribedFailure {
  if (failure instanceof CancelledFailure) return failed('Cancelled', 'the run was cancelled and undone');
  if (failure instanceof TerminatedFailure) {
    return failed('Terminated', 'the run was terminated; what it left is undone by reclaimOrphans');
  }
  let link: Error | undefined = failure;
  while (link instanceof TemporalFailure) {
    if (link instanceof ApplicationFailure) return failed(link.type ?? 'Error', link.message);
    if (link instanceof TimeoutFailure) return failed('HostUnreachable', `${failure.message}: ${link.message}`);
    link = link.cause;
  }
  return failed('Error', failure.message);
}

const failed = (type: string, message: string): DescribedFailure => ({ type, message, isUsage: false });
