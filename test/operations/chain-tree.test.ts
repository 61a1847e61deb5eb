import { describe, expect, it } from 'vitest';
import type { BackupRecord } from '../../catalog/contract.ts';
import { chainTreeText } from '../../cli/commands/chain-text.ts';
import { arrange } from '../../operations/chain-tree.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { VmProbe } from '../../schemas/probe.ts';

const idOf = (letter: string): string => '00000000-0000-4000-8000-000000000000'.replaceAll('0', letter);

function record(letter: string, parent: string | null, given: Partial<BackupRecord> = {}): BackupRecord {
  return {
    backup: {
      id: idOf(letter),
      vm: { uuid: 'vm', name: 'web-1' },
      type: parent === null ? 'full' : 'incremental',
      state: 'BackedUp',
      parentId: parent === null ? null : idOf(parent),
      chainId: idOf('a'),
      endOfChain: false,
      instant: '2026-11-21T12:00:00.000Z',
      repository: 'main',
      disks: [{ changedBytes: 65_536 }],
      storedBytes: 4096,
    },
    damage: null,
    pinned: false,
    ...given,
  } as unknown as BackupRecord;
}

const bitmap = (name: string) => ({ name, recording: true, inconsistent: false });
const [B, D] = [checkpointName(idOf('b')), checkpointName(idOf('d'))];
const PROBE: VmProbe = {
  host: 'kvm-1',
  power: 'running',
  checkpoints: [
    { name: 'theirs', parent: null },
    { name: B, parent: 'theirs' },
    { name: D, parent: B },
  ],
  images: [
    { target: 'vda', path: '/a', format: 'qcow2', bitmaps: [bitmap(B), bitmap(D), bitmap('theirs')] },
    { target: 'vdb', path: '/b', format: 'qcow2', bitmaps: [bitmap(D), bitmap(checkpointName(idOf('f')))] },
  ],
  doesNotFit: [],
};
/** a ← b ← c (damaged), b ← d, d ← e */
const CHAIN = [
  record('a', null),
  record('b', 'a'),
  record('c', 'b', { damage: 'files: x.qcow2 is missing' }),
  record('d', 'b'),
];
const KNOWN = [
  { backupId: idOf('b'), state: 'kept' as const },
  { backupId: idOf('d'), state: 'current' as const },
];

const KNOWN_ON_VM = { checkpoints: KNOWN, deltas: [{ backupId: idOf('d'), target: 'vdc' }] };

describe('chain tree', () => {
  it('says where each checkpoint is, and which are of others', () => {
    const tree = arrange(CHAIN, KNOWN_ON_VM, new Set([idOf('a')]), PROBE);
    const [shown] = tree.chains;
    expect(shown).toMatchObject({ id: idOf('a'), open: true, repository: 'main' });
    const places = shown!.backups.map(({ checkpoint, inDomain, inImages }) => ({ checkpoint, inDomain, inImages }));
    expect(places).toEqual([
      { checkpoint: null, inDomain: false, inImages: [] },
      { checkpoint: 'kept', inDomain: true, inImages: ['vda'] },
      { checkpoint: null, inDomain: false, inImages: [] },
      { checkpoint: 'current', inDomain: true, inImages: ['vda', 'vdb'] },
    ]);
    expect(shown!.backups.map(({ children }) => children)).toEqual([[idOf('b')], [idOf('c'), idOf('d')], [], []]);
    expect(tree.others).toEqual([{ name: 'theirs', inDomain: true, inImages: ['vda'] }]);
    expect(tree.strays).toEqual([{ name: checkpointName(idOf('f')), inDomain: false, inImages: ['vdb'] }]);
  });

  it('draws what branched off in front of the newest line', () => {
    const drawn = chainTreeText(arrange(CHAIN, KNOWN_ON_VM, new Set([idOf('a')]), PROBE)).split('\n');
    expect(drawn.map((line) => line.slice(0, 44))).toEqual([
      'chain aaaaaaaa in main, open',
      '  aaaaaaaa  full  2026-11-21T12:00:00.000Z  ',
      '  bbbbbbbb  incremental  on aaaaaaaa  2026-1',
      '  ├─ cccccccc  incremental  on bbbbbbbb  202',
      '  dddddddd  incremental  on bbbbbbbb  2026-1',
      '',
      'checkpoints of ours that belong to no backup',
      `  ${checkpointName(idOf('f')).slice(0, 42)}`,
      '',
      "other tools' checkpoints, which are left alo",
      '  theirs (in the domain, in the image of vda',
    ]);
    expect(drawn[3]).toContain('damaged: x.qcow2 is missing');
    expect(drawn[4]).toContain('checkpoint current (in the domain, in the image of vda vdb)');
    expect(drawn[4]).toContain('overlay on vdc');
    expect(drawn[4]).toContain('64.0 KiB changed, 4.0 KiB stored');
  });

  it('says unknown where the host could not be asked', () => {
    const tree = arrange(CHAIN, KNOWN_ON_VM, new Set(), null);
    expect(tree.chains[0]?.backups[3]).toMatchObject({ checkpoint: 'current', inDomain: null, inImages: null });
    expect(chainTreeText(tree)).toContain('checkpoint current (where: unknown)');
    expect(tree.others).toEqual([]);
  });
});
