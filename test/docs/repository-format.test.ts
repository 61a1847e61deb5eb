import { execFileSync } from 'node:child_process';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FORMAT_VERSION } from '../../repository/identity.ts';
import { encodeSums } from '../../repository/sums.ts';
import { manifest, MANIFEST_VERSION } from '../../schemas/manifest.ts';
import { describeStored } from '../support/stored-chain.ts';

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

  it('tells how to verify a file by hand, and that finds one altered bit', async () => {
    const script = /```sh\n(while[\s\S]*?)```/.exec(page)?.[1] ?? '';
    const folder = await mkdtemp(join(tmpdir(), 'holdfast-by-hand-'));
    try {
      const path = join(folder, 'full.qcow2');
      await writeFile(path, Buffer.alloc(300_000, 'content'));
      const { segments } = await describeStored(path, 'full.qcow2', [100_000, 65_536]);
      await writeFile(`${path}.sums`, encodeSums(segments));
      const verify = () => execFileSync('sh', ['-c', script], { env: { ...process.env, file: path } }).toString();
      expect(verify()).toBe('');
      await using file = await open(path, 'r+');
      await file.write(Buffer.from('C'), 0, 1, 120_000);
      expect(verify()).toBe(`${path}: the bytes at 100000 were altered\n`);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
