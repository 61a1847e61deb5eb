import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { newRepositoryKeys } from '../../repository/repository-keys.ts';
import { sealManifest, sealResult, unsealManifest } from '../../repository/sealed-manifest.ts';
import { manifest as manifestSchema, type Manifest } from '../../schemas/manifest.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import { sha256 } from '../support/stored-chain.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const MARK = `mark-${randomUUID()}`;
const NVRAM = Buffer.from(MARK);

const RESULT: ValidationResult = {
  state: 'Valid',
  steps: [{ step: 'command', result: 'passed', detail: `printed ${MARK}`, durationMs: 5 }],
  bootMs: 5,
  validatedAt: '2026-11-21T12:00:00.000Z',
  host: MARK,
  screenshot: null,
};

function marked(): Manifest {
  const plain = manifestOf('00000000-0000-4000-8000-000000000001');
  return {
    ...plain,
    vm: { ...plain.vm, name: MARK },
    host: MARK,
    source: { platform: 'libvirt', metadata: { notFrozen: MARK } },
    domainXml: { inactive: `<domain>${MARK}</domain>`, live: `<domain>${MARK}</domain>` },
    checkpointXml: `<domaincheckpoint>${MARK}</domaincheckpoint>`,
    files: [{ kind: 'nvram', path: `/${MARK}`, mode: 384, sha256: sha256(NVRAM), content: NVRAM.toString('base64') }],
    skippedDisks: [{ target: 'vdb', reason: MARK }],
    disks: plain.disks.map((disk) => ({
      ...disk,
      serial: MARK,
      sourcePath: `/${MARK}`,
      sourceMark: { born: null, below: MARK },
    })),
    requestedBy: MARK,
    run: {
      workflowId: MARK,
      runId: MARK,
      offering: MARK,
      tenant: MARK,
      quiesce: 'none',
      beganAt: RESULT.validatedAt,
      endedAt: RESULT.validatedAt,
    },
    versions: { holdfast: MARK },
    validationResult: RESULT,
  };
}

describe('a sealed manifest', () => {
  it('says nothing of whose backup it is where names are hidden, and opens to what it was', async () => {
    const { keys, recipient } = await newRepositoryKeys([(await newKeyPair()).recipient]);
    const sealed = await sealManifest(marked(), { format: 'age', recipient, hideNames: true });
    const text = JSON.stringify(sealed);
    expect(text).not.toContain(MARK);
    expect(text).not.toContain(NVRAM.toString('base64'));
    expect(sealed.vm.name).toBe(sealed.vm.uuid);
    expect(manifestSchema.parse(sealed).disks[0]).toMatchObject({ storedBytes: 100, file: marked().disks[0]!.file });
    expect(await unsealManifest(sealed, keys)).toEqual(marked());
  });

  it('hides what is of the guest where names are not hidden', async () => {
    const { keys, recipient } = await newRepositoryKeys([(await newKeyPair()).recipient]);
    const sealed = await sealManifest(marked(), { format: 'age', recipient, hideNames: false });
    expect(sealed).toMatchObject({ vm: { name: MARK }, host: MARK, files: [], requestedBy: MARK });
    expect(sealed.validationResult?.steps[0]?.detail).not.toContain(MARK);
    expect(await unsealManifest(sealed, keys)).toEqual(marked());
  });

  it('keeps what was changed in its open part', async () => {
    const { keys, recipient } = await newRepositoryKeys([(await newKeyPair()).recipient]);
    const encryption = { format: 'age' as const, recipient, hideNames: true };
    const sealed = await sealManifest(marked(), encryption);
    const result = await sealResult({ ...RESULT, state: 'NotValid' }, encryption);
    const disks = sealed.disks.map((disk) => ({ ...disk, storedBytes: 50 }));
    const opened = await unsealManifest({ ...sealed, disks, validation: 'NotValid', validationResult: result }, keys);
    expect(opened).toEqual({
      ...marked(),
      disks: marked().disks.map((disk) => ({ ...disk, storedBytes: 50 })),
      validation: 'NotValid',
      validationResult: { ...RESULT, state: 'NotValid' },
    });
  });

  it('is refused without keys, with those of another repository, and with the part of another backup', async () => {
    const { keys, recipient } = await newRepositoryKeys([(await newKeyPair()).recipient]);
    const others = await newRepositoryKeys([(await newKeyPair()).recipient]);
    const encryption = { format: 'age' as const, recipient, hideNames: false };
    const sealed = await sealManifest(marked(), encryption);
    await expect(unsealManifest(sealed, null)).rejects.toMatchObject({ code: 'key-missing' });
    await expect(unsealManifest(sealed, others.keys)).rejects.toMatchObject({ code: 'key-wrong' });
    const another = await sealManifest({ ...marked(), id: randomUUID() }, encryption);
    const mixed = { ...sealed, sealed: another.sealed! };
    await expect(unsealManifest(mixed, keys)).rejects.toMatchObject({ code: 'invalid' });
    const { sealed: _, ...plain } = sealed;
    expect(await unsealManifest(plain, null)).toEqual(plain);
  });
});
