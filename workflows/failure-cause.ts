import { ApplicationFailure, isCancellation, TimeoutFailure } from '@temporalio/workflow';
import type { FailureType } from '../schemas/failures.ts';

/** The type an activity reported, from under the wrappers Temporal puts round it. */
export function failureTypeOf(error: unknown): string {
  if (isCancellation(error)) return 'Cancelled';
  let type: string = 'Error';
  for (const link of causes(error)) {
    // What the last attempt said, if any came to say something, is nearer to the cause than that time ran out.
    if (link instanceof ApplicationFailure && link.type != null) return link.type;
    if (link instanceof TimeoutFailure) type = 'HostUnreachable' satisfies FailureType;
  }
  return type;
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
