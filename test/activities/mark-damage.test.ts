import { describe, expect, it } from 'vitest';
import { marksOf } from '../../activities/control/mark-damage.ts';
import type { BackupRecord } from '../../catalog/contract.ts';

/** Backups and their files are called by a letter; each disk's file is `<backup>-<target>`. */
const record = (
  id: string,
  parentId: string | null,
  given: { damage?: string; state?: string; targets?: Record<string, boolean> } = {},
): BackupRecord =>
  ({
    backup: { id, parentId, state: given.state ?? 'BackedUp' },
    // The value tells whether the disk is built on the parent's.
    disks: Object.entries(given.targets ?? { vda: parentId !== null }).map(([target, isBuiltOn]) => ({
      target,
      file: `${id}-${target}`,
      backingFile: isBuiltOn ? `${parentId ?? ''}-${target}` : null,
    })),
    damage: given.damage ?? null,
  }) as unknown as BackupRecord;

const LINE = (damage?: string): BackupRecord[] => [
  record('a', null, damage === undefined ? {} : { damage }),
  record('b', 'a', damage === undefined ? {} : { damage }),
  record('c', 'b', damage === undefined ? {} : { damage }),
];
const bad = (...files: string[]): Map<string, string> => new Map(files.map((file) => [file, `${file} is altered`]));
const all = (...ids: string[]): Set<string> => new Set(ids.map((id) => `${id}-vda`));

describe('marksOf', () => {
  it.each<{
    name: string;
    backups: BackupRecord[];
    damaged?: string[];
    verified?: string[];
    set?: Record<string, string>;
    heal?: string[];
  }>([
    { name: 'nothing, where nothing is wrong', backups: LINE() },
    {
      name: 'a damaged full, and all that is built on it',
      backups: LINE(),
      damaged: ['a-vda'],
      set: {
        a: 'bytes: a-vda is altered',
        b: 'bytes: built on backup a, of which a-vda is altered',
        c: 'bytes: built on backup a, of which a-vda is altered',
      },
    },
    {
      name: 'not what an increment is built on',
      backups: LINE(),
      damaged: ['c-vda'],
      set: { c: 'bytes: c-vda is altered' },
    },
    {
      name: 'not what was copied in full since',
      backups: [
        record('a', null, { targets: { vda: false, vdb: false } }),
        record('b', 'a', { targets: { vda: true, vdb: false } }),
      ],
      damaged: ['a-vdb'],
      set: { a: 'bytes: a-vdb is altered' },
    },
    { name: 'nothing anew', backups: [record('a', null, { damage: 'bytes: a-vda is altered' })], damaged: ['a-vda'] },
    {
      name: 'over the mark of a look at lengths, which goes by itself',
      backups: [record('a', null, { damage: 'files: a-vda is missing' })],
      damaged: ['a-vda'],
      set: { a: 'bytes: a-vda is altered' },
    },
    { name: 'not over the mark of a validation', backups: LINE('does not boot'), damaged: ['a-vda'] },
    { name: 'nothing, and takes its own marks away', backups: LINE('bytes: old'), heal: ['a', 'b', 'c'] },
    {
      name: 'nothing, and leaves marks of others as long as it has not seen every byte',
      backups: LINE('altered'),
      verified: ['a', 'b'],
      heal: ['a', 'b'],
    },
    {
      name: 'nothing, and takes back what was lost only when its bytes were seen',
      backups: [record('a', null, { damage: 'bytes: lost', state: 'Error' })],
    },
    {
      name: 'nothing, and takes back what was lost',
      backups: [record('a', null, { damage: 'files: lost', state: 'Error' })],
      verified: ['a'],
      heal: ['a'],
    },
  ])('marks $name', ({ backups, damaged = [], verified = [], set = {}, heal = [] }) => {
    const marks = marksOf(backups, bad(...damaged), all(...verified));
    expect(Object.fromEntries(marks.set.map(({ id, damage }) => [id, damage]))).toEqual(set);
    expect(marks.heal).toEqual(heal);
  });
});
