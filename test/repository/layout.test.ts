import { describe, expect, it } from 'vitest';
import {
  diskFileKey,
  isBackupFile,
  manifestKey,
  nameOfKey,
  parseManifestKey,
  rewriteKey,
  sumsKey,
  utcStamp,
  validationKey,
  validationKeys,
} from '../../repository/layout.ts';

const VM = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const BACKUP = '00000000-0000-4000-8000-000000000001';

describe('layout', () => {
  it('names the files of a backup by type and UTC second', () => {
    const disk = { vmUuid: VM, diskNumber: 0, instant: '2026-11-21T12:00:00.999Z' };
    const full = diskFileKey({ ...disk, type: 'full' });
    expect(full).toBe(`${VM}/disk-0/full-20261121-120000.qcow2`);
    expect(nameOfKey(diskFileKey({ ...disk, type: 'incremental' }))).toBe('incr-20261121-120000.qcow2');
    expect(sumsKey(full)).toBe(`${full}.sums`);
    expect(utcStamp('2026-11-21T23:30:00-02:00')).toBe('20261122-013000');
  });

  it('names encrypted files so that they make a chain once they are decrypted', () => {
    const file = diskFileKey({
      vmUuid: VM,
      diskNumber: 0,
      instant: '2026-11-21T12:00:00Z',
      type: 'full',
      isEncrypted: true,
    });
    expect(file).toBe(`${VM}/disk-0/full-20261121-120000.qcow2.age`);
    expect(nameOfKey(file)).toBe('full-20261121-120000.qcow2');
    const files = [file, sumsKey(file), rewriteKey(file, BACKUP), sumsKey(rewriteKey(file, BACKUP))];
    expect([...files, ...validationKeys(VM, BACKUP)].every(isBackupFile)).toBe(true);
    expect(validationKeys(VM, BACKUP)).toContain(validationKey(VM, BACKUP, { isEncrypted: true }));
  });

  it('keeps manifests and screenshots by backup id', () => {
    expect(manifestKey(VM, BACKUP)).toBe(`${VM}/backups/${BACKUP}.json`);
    expect(validationKey(VM, BACKUP)).toBe(`${VM}/validation/${BACKUP}.png`);
    expect(parseManifestKey(manifestKey(VM, BACKUP))).toEqual({ vmUuid: VM, backupId: BACKUP });
  });

  it.each([
    `${VM}/backups/x.json`,
    `${VM}/backups/${BACKUP}.json.bak`,
    `${VM}/disk-0/${BACKUP}.json`,
    `x/backups/${BACKUP}.json`,
    `${VM}/backups/x/${BACKUP}.json`,
    'repository.json',
  ])('does not take %s for a manifest', (key) => {
    expect(parseManifestKey(key)).toBeUndefined();
  });

  it('makes no key from what is not an id', () => {
    expect(() => manifestKey('..', BACKUP)).toThrow();
    expect(() => manifestKey(VM, '../x')).toThrow();
    expect(() => diskFileKey({ vmUuid: VM, diskNumber: -1, type: 'full', instant: new Date(0) })).toThrow();
    expect(() => diskFileKey({ vmUuid: VM, diskNumber: 0, type: 'full', instant: 'yesterday' })).toThrow();
  });
});
