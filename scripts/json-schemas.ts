import { z } from 'zod';
import { manifest, MANIFEST_VERSION, repositoryIdentity } from '../schemas/manifest.ts';
import { FORMAT_VERSION } from '../repository/identity.ts';

/**
 * The published JSON Schemas (draft 2020-12) of what lies in a repository, by file name in docs/schemas. They tell what a
 * reader takes: fields that came later may be missing, and fields it does not know are allowed.
 */
export const jsonSchemas = (): Record<string, string> => ({
  [`manifest-${MANIFEST_VERSION}.json`]: textOf(manifest, {
    $id: `urn:holdfast:manifest:${MANIFEST_VERSION}`,
    title: 'Manifest of a backup',
    description: '<vm-uuid>/backups/<backup-id>.json in a repository; docs/repository-format.md explains each field.',
  }),
  [`repository-${FORMAT_VERSION}.json`]: textOf(repositoryIdentity, {
    $id: `urn:holdfast:repository:${FORMAT_VERSION}`,
    title: 'Identity of a repository',
    description: 'repository.json at the root of a repository; docs/repository-format.md explains each field.',
  }),
});

function textOf(schema: z.ZodType, head: Record<string, string>): string {
  const { $schema, ...rest } = z.toJSONSchema(schema, {
    target: 'draft-2020-12',
    io: 'input',
    override: ({ jsonSchema }) => {
      if (jsonSchema.format === 'base64') delete jsonSchema.format; // no format of JSON Schema; contentEncoding is there too
    },
  });
  return `${JSON.stringify({ $schema, ...head, ...rest }, null, 2)}\n`;
}
