import { ApplicationFailure } from '@temporalio/workflow';
import type { z } from 'zod';

/** Checks a request at the workflow's door; a bad one fails at once and names the field. */
export function parseRequest<T>(schema: z.ZodType<T>, operation: string, request: unknown): T {
  const parsed = schema.safeParse(request ?? {});
  if (parsed.success) return parsed.data;
  const fields = parsed.error.issues.map((issue) => {
    const keys = issue.code === 'unrecognized_keys' ? issue.keys : undefined;
    const field = issue.path.length > 0 ? issue.path.join('.') : (keys?.join(', ') ?? 'request');
    return `${field}: ${issue.message}`;
  });
  throw ApplicationFailure.create({
    type: 'InvalidRequest',
    nonRetryable: true,
    message: `${operation}: ${fields.join('; ')}`,
  });
}
