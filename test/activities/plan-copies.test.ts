import { describe, expect, it } from 'vitest';
import { planCopies } from '../../activities/control/plan-copies.ts';
import type { BackupRecord, CopyRecord } from '../../catalog/contract.ts';
import { retentionRules } from '../../schemas/retention.ts';
import { backupRecord, copyRecord } from './backup-records.ts';

const HOUR_MS = 3_600_000;
const NOW = new Date('2026-11-21T12:00:00.000Z');
const agoHours = (hours: number): string => new Date(NOW.getTime() - hours * HOUR_MS).toISOString();

/** a ← b ← c, the oldest first, and d by itself. */
const a = backupRecord('a', { instant: agoHours(5) });
const b = backupRecord('b', { parentId: 'a', instant: agoHours(4) });
const c = backupRecord('c', { parentId: 'b', instant: agoHours(3) });
const d = backupRecord('d', { instant: agoHours(2) });
const CHAIN = [a, b, c, d];

interface Options {
  only?: string;
  from?: string;
  keepLast?: number;
  without?: string[];
  refused?: string;
}

function plan(
  backups: BackupRecord[],
  copies: CopyRecord[],
  { keepLast, without = [], refused, ...rest }: Options = {},
) {
  const { steps, revived, present, blocked } = planCopies(backups, copies, {
    to: 'off-site',
    ...rest,
    refused: new Map(refused === undefined ? [] : [[refused, 'would be plain']]),
    rules: keepLast === undefined ? null : retentionRules.parse({ last: keepLast }),
    without: new Set(without),
    now: NOW,
  });
  return {
    steps: steps.map(({ id, isAncestor }) => (isAncestor ? `(${id})` : id)).join(' '),
    ...(revived.length === 0 ? {} : { revived }),
    ...(present === 0 ? {} : { present }),
    ...(blocked.length === 0 ? {} : { blocked: blocked.map(({ id }) => id) }),
  };
}

const changed = (record: BackupRecord, state: BackupRecord['backup']['state'], damage: string | null = null) => ({
  ...record,
  damage,
  backup: { ...record.backup, state },
});

describe('planCopies', () => {
  it.each<{ why: string; backups?: BackupRecord[]; copies?: CopyRecord[]; options?: Options; expected: unknown }>([
    {
      why: 'parents before children, whatever the order they come in',
      backups: [c, d, b, a],
      expected: { steps: 'a b c d' },
    },
    { why: 'one backup with what it is built on', options: { only: 'c' }, expected: { steps: '(a) (b) c' } },
    { why: 'one that stands by itself', options: { only: 'd' }, expected: { steps: 'd' } },
    {
      why: 'only what is not there',
      copies: [copyRecord('a', 'Copied'), copyRecord('b', 'Copied')],
      expected: { steps: 'c d', present: 2 },
    },
    {
      why: 'nothing that is being copied by another run',
      copies: [
        copyRecord('a', 'Copied'),
        copyRecord('b', 'Copied'),
        copyRecord('c', 'Copied'),
        copyRecord('d', 'Copying'),
      ],
      expected: { steps: '', present: 4 },
    },
    {
      why: 'again what failed',
      copies: [copyRecord('d', 'CopyError')],
      options: { only: 'd' },
      expected: { steps: 'd' },
    },
    {
      why: 'not what was let go there',
      copies: [
        copyRecord('a', 'Removed'),
        copyRecord('b', 'Copied'),
        copyRecord('c', 'Copied'),
        copyRecord('d', 'Expunged'),
      ],
      expected: { steps: '', present: 2 },
    },
    {
      why: 'what was let go there, when it is asked for',
      copies: [copyRecord('d', 'Expunged')],
      options: { only: 'd' },
      expected: { steps: 'd' },
    },
    {
      why: 'what was let go there, when others are built on it',
      copies: [copyRecord('a', 'Expunged'), copyRecord('b', 'Expunged')],
      expected: { steps: '(a) (b) c d' },
    },
    {
      why: 'no bytes of a hidden copy whose files are there',
      copies: [copyRecord('a', 'Removed'), copyRecord('b', 'Copied')],
      options: { only: 'a' },
      expected: { steps: '', revived: ['a'] },
    },
    {
      why: 'on a hidden copy',
      copies: [copyRecord('a', 'Copied'), copyRecord('b', 'Removed')],
      options: { only: 'c' },
      expected: { steps: 'c' },
    },
    {
      why: 'hidden originals for those that are built on them, and not for themselves',
      backups: [changed(a, 'Removed'), b, changed(d, 'Removed')],
      expected: { steps: '(a) b' },
    },
    {
      why: 'not what failed in this run, nor again what is built on it',
      options: { without: ['a', 'b', 'c'] },
      expected: { steps: 'd' },
    },
    {
      why: 'nothing that is built on what is gone',
      backups: [b, c, d],
      expected: { steps: 'd', blocked: ['b', 'c'] },
    },
    {
      why: 'what is built on what is gone, when that has a copy',
      backups: [b, c],
      copies: [copyRecord('a', 'Copied')],
      expected: { steps: 'b c' },
    },
    {
      why: 'nothing damaged, and nothing that is built on it',
      backups: [a, changed(b, 'BackedUp', 'altered'), c, d],
      expected: { steps: 'a d', blocked: ['b', 'c'] },
    },
    {
      why: 'nothing of a repository whose copies would be plain',
      options: { refused: 'main' },
      expected: { steps: '', blocked: ['a', 'b', 'c', 'd'] },
    },
    {
      why: 'a child of a damaged one whose copy is there',
      backups: [a, changed(b, 'BackedUp', 'altered'), c],
      copies: [copyRecord('a', 'Copied'), copyRecord('b', 'Copied')],
      expected: { steps: 'c', present: 2 },
    },
    {
      why: 'what the rules there would keep, with what that is built on',
      backups: [a, b, c],
      options: { keepLast: 1 },
      expected: { steps: '(a) (b) c' },
    },
    { why: 'not what the rules there would let go at once', options: { keepLast: 1 }, expected: { steps: 'd' } },
    { why: 'whatever is asked for by its id', options: { keepLast: 1, only: 'a' }, expected: { steps: 'a' } },
    {
      why: 'not what lies there itself, or elsewhere than asked',
      backups: [a, backupRecord('e', { instant: agoHours(1), repository: 'off-site' })],
      options: { from: 'other' },
      expected: { steps: '' },
    },
    {
      why: 'nothing that is not whole',
      backups: [changed(a, 'BackingUp'), changed(d, 'Error')],
      expected: { steps: '' },
    },
  ])('copies $why', ({ backups = CHAIN, copies = [], options, expected }) => {
    expect(plan(backups, copies, options)).toEqual(expected);
  });
});
