import { describe, expect, it } from 'vitest';
import { whyNotProtected } from '../../operations/why-not-protected.ts';
import { offering as offeringSchema, type VmRecord } from '../../schemas/catalog.ts';
import { repositorySettings, type SecretReference } from '../../schemas/repository.ts';

const disk = (target: string) => ({ target, format: 'qcow2', path: `/images/${target}.qcow2`, sizeBytes: null });
const VM: VmRecord = {
  uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e',
  name: 'web-1',
  host: 'kvm-1',
  power: 'running',
  state: 'Idle',
  error: null,
  offering: null,
  lastSeenAt: null,
  disks: [disk('vda'), disk('vdb')],
};
const MAIN = [{ name: 'main' }];
const encrypted = (identity: SecretReference | null) => {
  const encryption = { format: 'age', recipient: `age1${'q'.repeat(58)}` };
  return [{ name: 'vault', settings: repositorySettings.parse({ encryption, identity }) }];
};
const VAULT = encrypted(null);
const OPENED = encrypted({ kind: 'file', path: '/etc/holdfast/vault.key' });
const BOOTING = { validation: ['hash', 'boot'] };
const NO_IDENTITY =
  /^repository vault is encrypted and its hosts have no identity.*holdfast repo set vault --identity-file/;

describe('whyNotProtected', () => {
  it.each([
    ['one repository, none named', {}, VM, MAIN, undefined],
    ['no repository', {}, VM, [], 'there is no repository yet'],
    ['several, none named', {}, VM, [...MAIN, { name: 'far' }], 'there are main, far; say which'],
    ['several, one named', { repository: 'far' }, VM, [...MAIN, { name: 'far' }], undefined],
    ['one that is gone', { repository: 'far' }, VM, MAIN, 'far is not known'],
    ['a disk left', { excludeDisks: ['vda'] }, VM, MAIN, undefined],
    ['all excluded', { excludeDisks: ['vda', 'vdb'] }, VM, MAIN, 'no disk is left to back up: the VM has vda, vdb'],
    ['included ones that are not there', { includeDisks: ['vdx'] }, VM, MAIN, 'no disk is left'],
    ['included and excluded', { includeDisks: ['vda'], excludeDisks: ['vda'] }, VM, MAIN, 'no disk is left'],
    ['compression after the backup, encrypted', { compression: 'deferred' }, VM, VAULT, NO_IDENTITY],
    ['the same, named', { compression: 'deferred', repository: 'vault' }, VM, [...MAIN, ...VAULT], NO_IDENTITY],
    [
      'the same in another repository',
      { compression: 'deferred', repository: 'main' },
      VM,
      [...MAIN, ...VAULT],
      undefined,
    ],
    ['the same with an identity', { compression: 'deferred' }, VM, OPENED, undefined],
    ['a validation that boots, encrypted', BOOTING, VM, VAULT, NO_IDENTITY],
    ['a validation of hashes only, encrypted', { validation: ['hash'] }, VM, VAULT, undefined],
    ['compression while copying, encrypted', {}, VM, VAULT, undefined],
    ['disks nobody has seen', { includeDisks: ['vdx'] }, { ...VM, disks: [] }, MAIN, undefined],
  ])('%s', (_case, settings, vm, repositories, expected) => {
    const why = whyNotProtected(offeringSchema.parse({ name: 'gold', ...settings }), vm, repositories);
    if (expected === undefined) expect(why).toBeUndefined();
    else expect(why).toMatch(expected);
  });
});
