import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { FORMAT_VERSION } from '../../repository/identity.ts';
import { manifest, MANIFEST_VERSION } from '../../schemas/manifest.ts';

const page = await readFile(new URL('../../docs/repository-format.md', import.meta.url), 'utf8');

describe('docs/repository-format.md', () => {
  it('is of the version the code writes', () => {
    expect(page).toContain(`# Repository format, version ${FORMAT_VERSION}\n`);
    expect(page).toContain(`| \`version\` | ${MANIFEST_VERSION} |`);
  });

  it('names every field of a manifest', () => {
    const disk = manifest.shape.disks.element.shape;
    for (const field of [...Object.keys(manifest.shape), ...Object.keys(disk)]) {
      expect(page, field).toMatch(new RegExp(`[\`.]${field}[\`.\\[]`));
    }
  });
});
