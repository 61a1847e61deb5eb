import { describe, expect, it } from 'vitest';
import { judgeCopies, partCopies, type KnownCopies } from '../../activities/control/judge-copies.ts';
import type { CopyRecord } from '../../catalog/contract.ts';
import type { FoundBackup, FoundVm } from '../../schemas/rescan.ts';
import { copyRecord } from './backup-records.ts';
import { backup, found, idOf, letterOf, lost } from './found-backups.ts';

const MAIN = '00000000-0000-4000-8000-0000000000f0';
const FOREIGN = '00000000-0000-4000-8000-0000000000f1';
const copiedFrom = { repositoryId: MAIN, copiedAt: '2026-11-21T20:00:00.000Z' };
const copy = (letter: string, parent: string | null, given: Partial<FoundBackup> = {}): FoundBackup =>
  backup(letter, 'a', parent, { copiedFrom, ...given });
const LINE = [copy('a', null), copy('b', 'a'), copy('c', 'b')];

/** Originals of the letters are known in `main`. */
const knowing = (letters: string, copies: CopyRecord[] = [], own = ''): KnownCopies => ({
  copies,
  elsewhere: new Map(Array.from(letters, (letter) => [idOf(letter), 'main'])),
  own: new Set(Array.from(own, idOf)),
  repositories: new Map([[MAIN, 'main']]),
});

/** As a catalog knows it once it has noted what was found. */
const noted = ({ id, type, parentId, disks }: FoundBackup, given: Partial<CopyRecord> = {}): CopyRecord => ({
  ...copyRecord(id, 'Copied'),
  type,
  parentId,
  disks,
  ...given,
});

function told(vm: FoundVm, known: KnownCopies) {
  const { notes, damage, lost: gone, originals, findings, added, changed } = judgeCopies(vm, known);
  return {
    notes: notes.map(({ backupId, state }) => `${letterOf(backupId)} ${state}`),
    damage: damage.map(({ id, damage: mark }) => `${letterOf(id)} ${mark === null ? 'healed' : 'damaged'}`),
    gone: gone.map(({ id }) => letterOf(id)),
    originals: originals.flatMap(({ repository, backups }) =>
      backups.map(({ id, state }) => `${letterOf(id)} ${state} in ${repository}`),
    ),
    findings: findings.map(({ sort, backupId }) => `${sort} ${letterOf(backupId ?? '')}`),
    counts: [added, changed],
  };
}
const NOTHING = { notes: [], damage: [], gone: [], originals: [], findings: [], counts: [0, 0] };

describe('partCopies', () => {
  const parted = (vm: FoundVm, known: KnownCopies) => {
    const { own, copied } = partCopies(vm, known);
    return [own, copied].map(({ backups, unreadable }) =>
      [...backups.map(({ id }) => letterOf(id)), ...unreadable.map(({ backupId }) => `(${letterOf(backupId)})`)].join(
        '',
      ),
    );
  };

  it('takes for copies what is said to be one, of repositories that the catalog knows', () => {
    const stranger = copy('d', null, { copiedFrom: { ...copiedFrom, repositoryId: FOREIGN } });
    expect(parted(found([...LINE, backup('e', 'e', null), stranger]), knowing('a'))).toEqual(['ed', 'abc']);
  });

  it('leaves what is known as its own', () => {
    expect(parted(found(LINE), knowing('', [], 'ab'))).toEqual(['ab', 'c']);
  });

  it("takes what cannot be read for the copy of a backup that is another repository's", () => {
    const unreadable = Array.from('bx', (letter) => ({ backupId: idOf(letter), message: 'torn' }));
    expect(parted(found([], { unreadable }), knowing('b'))).toEqual(['(x)', '(b)']);
  });
});

describe('judgeCopies', () => {
  it('notes copies of backups that are known elsewhere, parents first', () => {
    const vm = found(LINE.toReversed());
    expect(told(vm, knowing('abc'))).toEqual({
      ...NOTHING,
      notes: ['a Copied', 'b Copied', 'c Copied'],
      counts: [3, 0],
    });
  });

  it('knows their originals as gone where nobody ever looked, in chains that go on when somebody does', () => {
    const { originals } = judgeCopies(found(LINE), knowing('a'));
    expect(told(found(LINE), knowing('a')).originals).toEqual(['b Expunged in main', 'c Expunged in main']);
    expect(originals[0]).toMatchObject({ chains: [{ id: idOf('a'), state: 'ended', endedReason: 'copies-alone' }] });
  });

  it('changes nothing that it has noted before', () => {
    const copies = LINE.map((one) => noted(one));
    expect(told(found(LINE), knowing('abc', copies))).toEqual(NOTHING);
  });

  it('leaves hidden copies hidden and those that are being written alone, and brings others back', () => {
    const states = ['Removed', 'Copying', 'Expunged'] as const;
    const copies = LINE.map((one, index) => noted(one, { state: states[index]! }));
    expect(told(found(LINE), knowing('abc', copies))).toEqual({ ...NOTHING, notes: ['c Copied'], counts: [0, 1] });
  });

  it('marks copies whose files are not whole and those built on them, and takes its own mark back', () => {
    const broken = found([LINE[0]!, { ...LINE[1]!, ...lost('b') }, LINE[2]!]);
    const copies = LINE.map((one) => noted(one));
    const marked = { ...NOTHING, damage: ['b damaged', 'c damaged'], findings: ['damaged b', 'damaged c'] };
    expect(told(broken, knowing('abc', copies))).toEqual(marked);
    const after = LINE.map((one) => noted(one, { damage: 'files: gone' }));
    expect(told(found(LINE), knowing('abc', after)).damage).toEqual(['a healed', 'b healed', 'c healed']);
    const checked = LINE.map((one) => noted(one, { damage: 'bytes: altered' }));
    expect(told(broken, knowing('abc', checked)).damage).toEqual([]);
  });

  it('gives up copies that have no manifest any more, so that they are made again', () => {
    const copies = [noted(LINE[0]!), noted(LINE[1]!, { state: 'Removed' }), noted(LINE[2]!, { state: 'Copying' })];
    expect(told(found([]), knowing('', copies))).toEqual({
      ...NOTHING,
      gone: ['a', 'b'],
      findings: ['missing a'],
      counts: [0, 2],
    });
  });

  it('marks a copy whose manifest cannot be read', () => {
    const unreadable = [{ backupId: idOf('a'), message: 'torn' }];
    expect(told(found([], { unreadable }), knowing('a', [noted(LINE[0]!)]))).toEqual({
      ...NOTHING,
      damage: ['a damaged'],
      findings: ['damaged a'],
    });
  });
});
