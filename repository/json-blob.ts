import type { z } from 'zod';
import type { BlobStore } from './blob-store.ts';
import { RepositoryError } from './repository-error.ts';

/** JSON as the repository keeps it: two spaces, keys in the schema's order, a line feed at the end. UTF-8. */
export const encodeJson = (value: unknown): Buffer => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);

/**
 * Reads a JSON blob and checks it.
 * @throws RepositoryError `invalid` or `unsupported-version`, with the file and the field; BlobStoreError
 */
export async function readJson<T extends z.ZodType>(
  store: BlobStore,
  key: string,
  schema: T,
  version: { field: string; known: number; maxBytes: number },
): Promise<z.output<T>> {
  const content = await store.getBlob(key, { maxBytes: version.maxBytes });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(content));
  } catch (error) {
    throw new RepositoryError('invalid', key, `is not JSON: ${String(error)}`, { cause: error });
  }
  const found: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, version.field) : undefined;
  if (typeof found === 'number' && found > version.known) {
    throw new RepositoryError(
      'unsupported-version',
      key,
      `${version.field} is ${found}, this Holdfast knows up to ${version.known}: use a newer one`,
    );
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const issues = parsed.error.issues
      .slice(0, 3)
      .map(({ path, message }) => `${path.join('.') || '(root)'}: ${message}`);
    throw new RepositoryError('invalid', key, issues.join('; '), { cause: parsed.error });
  }
  return parsed.data;
}
