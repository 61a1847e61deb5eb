import { ApplicationFailure, isCancellation, TimeoutFailure } from '@temporalio/workflow';
import type { FailureType } from '../schemas/failures.ts';

/** The type an activity reported, from under the wrappers Temporal puts round it. */
export function failureTypeOf(error: unknown): string {
  if (isCancellation(error)) return 'Cancelled';
  for (const link of causes(error)) {
    if (link instanceof ApplicationFailure && link.type != null) return link.type;
    if (link instanceof TimeoutFailure) return 'HostUnreachable' satisfies FailureType;
  }
  return 'Error';
}

/** One line for a person: the innermost message. */
export function causeOf(error: unknown): string {
  if (isCancellation(error)) return 'cancelled by request';
  let message = String(error);
  for (const link of causes(error)) message = link.message;
  return message;
}

function* causes(error: unknown): Generator<Error> {
  let link = error;
  while (link instanceof Error) {
    yield link;
    if (link instanceof ApplicationFailure) return;
    link = link.cause;
  }
}
