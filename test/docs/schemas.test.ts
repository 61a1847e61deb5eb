import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { readdir, readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { jsonSchemas } from '../../scripts/json-schemas.ts';
import { manifest, type Manifest } from '../../schemas/manifest.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const FOLDER = new URL('../../docs/schemas/', import.meta.url);
const BACKUP = '00000000-0000-4000-8000-000000000001';
const OTHER = '00000000-0000-4000-8000-000000000002';

async function published(name: string): Promise<ValidateFunction> {
  const ajv = new Ajv2020({ strict: true, allErrors: true });
  addFormats.default(ajv);
  return ajv.compile(JSON.parse(await readFile(new URL(name, FOLDER), 'utf8')) as object);
}

/** A backup with every field that a manifest may have, as it is stored. */
function everything(): Manifest {
  const simple = manifestOf(BACKUP);
  const [disk] = simple.disks;
  const temporary = `${disk!.file}.rewrite-${OTHER}`;
  return manifest.parse({
    ...simple,
    type: 'incremental',
    parentId: OTHER,
    position: 2,
    consistency: 'application',
    freezeMs: 12,
    strategy: 'checkpoint',
    passedOver: [{ id: OTHER, reason: 'checkpoint-lost' }],
    skippedDisks: [{ target: 'sda', reason: 'a CD-ROM' }],
    files: [{ kind: 'tpm', path: '/x', mode: 0o600, sha256: 'b'.repeat(64), content: 'AAAA' }],
    disks: [
      {
        ...disk!,
        sourceMark: { born: '1', below: null },
        replacement: { ...disk!, storedBytes: 99, temporary, compression: 'zstd' },
      },
    ],
    requestedBy: 'cli:root@kvm-1',
    run: {
      workflowId: 'takeBackup-web-1',
      runId: 'x',
      offering: 'gold',
      tenant: 'default',
      quiesce: 'prefer',
      beganAt: '2026-11-21T12:00:00.000Z',
      endedAt: '2026-11-21T12:00:01.000Z',
    },
    attempts: { vda: 2 },
    resumedSegments: { vda: 7 },
    versions: { holdfast: '0.3.0' },
  } satisfies Manifest);
}

const altered = (change: (manifest: Manifest) => unknown): unknown => {
  const copy = structuredClone(everything());
  return change(copy) ?? copy;
};

describe('docs/schemas', () => {
  it('is what the code reads; else: npm run schemas', async () => {
    const made = jsonSchemas();
    expect((await readdir(FOLDER)).toSorted()).toEqual(Object.keys(made).toSorted());
    for (const [name, text] of Object.entries(made)) expect(await readFile(new URL(name, FOLDER), 'utf8')).toBe(text);
  });

  it('accepts manifests, also with fields that a later version adds', async () => {
    const accepts = await published('manifest-1.json');
    for (const stored of [manifestOf(BACKUP), everything(), { ...everything(), later: true }]) {
      expect(accepts(JSON.parse(JSON.stringify(stored))), JSON.stringify(accepts.errors)).toBe(true);
    }
    const { passedOver: _, ...early } = manifestOf(BACKUP);
    expect(accepts(early)).toBe(true);
  });

  it.each<{ what: string; change: (manifest: Manifest) => unknown }>([
    { what: 'a version it does not know', change: (one) => ({ ...one, version: 2 }) },
    { what: 'a missing hash', change: (one) => ({ ...one, disks: [{ ...one.disks[0], sums: undefined }] }) },
    { what: 'a hash with a digit too few', change: (one) => void (one.disks[0]!.sums.sha256 = 'a'.repeat(63)) },
    { what: 'a key that leads out of the repository', change: (one) => void (one.disks[0]!.file = '../../etc/passwd') },
    { what: 'a key that is hidden', change: (one) => void (one.disks[0]!.backingFile = 'a/.b') },
    { what: 'a negative length', change: (one) => void (one.disks[0]!.storedBytes = -1) },
    { what: 'a length that is no whole number', change: (one) => void (one.disks[0]!.virtualSizeBytes = 1.5) },
    { what: 'an instant that is no time', change: (one) => void (one.instant = 'yesterday') },
    {
      what: 'a reason it does not know',
      change: (one) => void Object.assign(one.disks[0]!, { fullReason: 'because' }),
    },
    { what: 'a parent that is no id', change: (one) => void (one.parentId = 'x') },
  ])('refuses $what, as the reader does', async ({ change }) => {
    const accepts = await published('manifest-1.json');
    const stored: unknown = JSON.parse(JSON.stringify(altered(change)));
    expect(accepts(stored)).toBe(false);
    expect(manifest.safeParse(stored).success).toBe(false);
  });

  it('accepts repository.json, and refuses one of a later format', async () => {
    const accepts = await published('repository-1.json');
    const identity = { id: BACKUP, formatVersion: 1, createdAt: '2026-11-21T12:00:00.000Z' };
    expect(accepts(identity)).toBe(true);
    expect(accepts({ ...identity, formatVersion: 2 })).toBe(false);
    expect(accepts({ ...identity, id: 'x' })).toBe(false);
  });
});
