import { describe, expect, it } from 'vitest';
import { restoreSources } from '../../operations/restore-sources.ts';
import type { BackupState } from '../../schemas/states.ts';
import { backupRecord, copyRecord } from '../activities/backup-records.ts';

const original = (state: BackupState = 'BackedUp', damage: string | null = null) => ({
  ...backupRecord('a', { state }),
  damage,
});
const there = copyRecord('a', 'Copied');
const hidden = copyRecord('a', 'Removed', { repository: 'attic' });
const altered = copyRecord('a', 'Copied', { repository: 'bucket', damage: 'altered' });

describe('restoreSources', () => {
  it.each([
    { why: 'the original first', from: original(), copies: [there], expected: 'main off-site' },
    { why: 'the original alone', from: original(), copies: [], expected: 'main' },
    { why: 'a hidden original too', from: original('Removed'), copies: [], expected: 'main' },
    {
      why: 'a copy before a damaged original',
      from: original('BackedUp', 'altered'),
      copies: [there],
      expected: 'off-site main',
    },
    { why: 'a copy of an original that is gone', from: original('Expunged'), copies: [there], expected: 'off-site' },
    {
      why: 'a listed copy before a hidden one',
      from: original('Expunged'),
      copies: [hidden, there],
      expected: 'off-site attic',
    },
    {
      why: 'a damaged copy last',
      from: original('BackedUp', 'altered'),
      copies: [altered, there],
      expected: 'off-site main bucket',
    },
    {
      why: 'no copy that is not whole',
      from: original('Expunged'),
      copies: [copyRecord('a', 'Copying'), copyRecord('a', 'CopyError'), copyRecord('a', 'Expunged')],
      expected: '',
    },
    { why: 'nothing that did not come about', from: original('Failed'), copies: [], expected: '' },
  ])('takes $why', ({ from, copies, expected }) => {
    expect(restoreSources(from, copies).join(' ')).toBe(expected);
  });
});
