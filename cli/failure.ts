import { WorkflowFailedError } from '@temporalio/client';
import {
  ApplicationFailure,
  CancelledFailure,
  TemporalFailure,
  TerminatedFailure,
  TimeoutFailure,
} from '@temporalio/common';
import { CommanderError } from 'commander';
import { ZodError } from 'zod';
import { LibvirtAddressError } from '../libvirt/address.ts';
import { failureTypeOf } from '../workers/failure-interceptor.ts';

export interface CommandFailure {
  /** A name of docs/failures.md, or `Cancelled`, `Terminated`, `UsageError`, `Error`. */
  type: string;
  message: string;
  /** 1 failed, 2 wrong usage. */
  exitCode: 1 | 2;
}

/** What a command says of an error it ended with. */
export function describeFailure(error: unknown): CommandFailure {
  if (error instanceof CommanderError) return { type: 'UsageError', message: error.message, exitCode: 2 };
  if (error instanceof LibvirtAddressError) return { type: 'UsageError', message: error.message, exitCode: 2 };
  if (error instanceof ZodError) {
    const message = error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
    return { type: 'InvalidRequest', message, exitCode: 2 };
  }
  if (error instanceof WorkflowFailedError) return describeRun(error.cause ?? error);
  const type = failureTypeOf(error) ?? 'Error';
  const message = error instanceof Error ? error.message : String(error);
  return { type, message, exitCode: 1 };
}

function describeRun(failure: Error): CommandFailure {
  if (failure instanceof CancelledFailure)
    return { type: 'Cancelled', message: 'the run was cancelled and undone', exitCode: 1 };
  if (failure instanceof TerminatedFailure) {
    const message = 'the run was terminated; what it left is undone by reclaimOrphans';
    return { type: 'Terminated', message, exitCode: 1 };
  }
  let link: Error | undefined = failure;
  while (link instanceof TemporalFailure) {
    if (link instanceof ApplicationFailure) return { type: link.type ?? 'Error', message: link.message, exitCode: 1 };
    if (link instanceof TimeoutFailure) {
      return { type: 'HostUnreachable', message: `${failure.message}: ${link.message}`, exitCode: 1 };
    }
    link = link.cause;
  }
  return { type: 'Error', message: failure.message, exitCode: 1 };
}
