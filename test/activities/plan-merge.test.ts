import { describe, expect, it } from 'vitest';
import { planMerge } from '../../activities/control/plan-merge.ts';
import type { BackupRecord } from '../../catalog/contract.ts';

/** A chain as `name parent state mark`, a minute after each other; marks: pinned, compressing, damaged. */
const chainOf = (...lines: string[]): BackupRecord[] =>
  lines.map((line, minute) => {
    const [id = '', parent = '-', state = 'BackedUp', mark = ''] = line.split(' ');
    return {
      backup: {
        id,
        type: parent === '-' ? 'full' : 'incremental',
        state,
        parentId: parent === '-' ? null : parent,
        chainId: id.startsWith('other') ? 'other' : 'chain',
        instant: state === 'Failed' ? null : `2026-11-21T12:${String(minute).padStart(2, '0')}:00.000Z`,
        compression: mark === 'compressing' ? 'Compressing' : 'None',
        validation: 'NotValidated',
        storedBytes: 10,
      },
      pinned: mark === 'pinned',
      damage: mark === 'damaged' ? 'a byte is altered' : null,
    } as unknown as BackupRecord;
  });

const LINE = ['a', 'b a', 'c b', 'd c'];

describe('planMerge', () => {
  it.each<{ name: string; chain: string[]; keep?: number; merges: string[]; blocked?: RegExp }>([
    { name: 'one merge unless told', chain: LINE, merges: ['a>b'] },
    { name: 'as many as leave so many', chain: LINE, keep: 2, merges: ['a>b', 'b>c'] },
    { name: 'down to one full', chain: LINE, keep: 1, merges: ['a>b', 'b>c', 'c>d'] },
    { name: 'nothing when the chain is as short already', chain: LINE, keep: 4, merges: [] },
    { name: 'nothing when it is shorter', chain: LINE, keep: 9, merges: [] },
    { name: 'nothing in a full alone', chain: ['a'], merges: [] },
    { name: 'nothing where there is nothing', chain: [], merges: [] },
    { name: 'hidden ones count and are merged too', chain: ['a - Removed', 'b a Removed', 'c b'], merges: ['a>b'] },
    { name: 'failed attempts do not stand in the way', chain: ['a', 'x a Failed', 'b a'], merges: ['a>b'] },
    { name: 'expunged ones neither', chain: ['a', 'x a Expunged', 'b a'], merges: ['a>b'] },
    { name: 'other chains neither', chain: ['other1', 'other2 other1', ...LINE], merges: ['a>b'] },
    {
      name: 'not where the full has two children',
      chain: ['a', 'b a', 'x a'],
      merges: [],
      blocked: /2 backups are built on a/,
    },
    {
      name: 'not with one that is being taken on the full',
      chain: ['a', 'b a', 'x a BackingUp'],
      merges: [],
      blocked: /2 backups/,
    },
    {
      name: 'up to a branch',
      chain: ['a', 'b a', 'c b', 'x b'],
      keep: 1,
      merges: ['a>b'],
      blocked: /2 backups are built on b/,
    },
    { name: 'not a pinned full', chain: ['a - BackedUp pinned', 'b a'], merges: [], blocked: /a is pinned/ },
    { name: 'into a pinned increment', chain: ['a', 'b a BackedUp pinned'], merges: ['a>b'] },
    {
      name: 'not one that is being compressed',
      chain: ['a', 'b a BackedUp compressing'],
      merges: [],
      blocked: /b is being compressed/,
    },
    { name: 'not one that is being taken', chain: ['a', 'b a', 'c b BackingUp'], keep: 1, merges: ['a>b'] },
    { name: 'nothing damaged', chain: ['a - BackedUp damaged', 'b a'], merges: [], blocked: /a is damaged/ },
    { name: 'nothing that failed half way', chain: ['a', 'b a Error', 'c b'], merges: [], blocked: /b is Error/ },
  ])('$name', ({ chain, keep, merges, blocked }) => {
    const plan = planMerge(chainOf(...chain), 'chain', keep);
    expect(plan.merges.map(({ full, into }) => `${full.id}>${into.id}`)).toEqual(merges);
    if (blocked === undefined) expect(plan.blocked).toBeNull();
    else expect(plan.blocked).toMatch(blocked);
  });
});
