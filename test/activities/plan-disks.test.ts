import { describe, expect, it } from 'vitest';
import { planDisks, type DiskPlanInput } from '../../activities/control/plan-disks.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { DiskFacts, VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';

const VM = '5b1f6f0a-57a4-4d55-9c0c-0e5a1b1c2d3e';
const PARENT = '0d4e2c1b-1111-4222-8333-444455556666';
const GiB = 1024 ** 3;

const disk = (target: string, changes: Partial<DiskFacts> = {}): DiskFacts => ({
  target,
  device: 'disk',
  sourceType: 'file',
  sourcePath: `/images/${target}.qcow2`,
  format: 'qcow2',
  serial: null,
  virtualSizeBytes: GiB,
  shareable: false,
  readOnly: false,
  mark: { born: '1', below: '' },
  bitmaps: [{ name: checkpointName(PARENT), inconsistent: false, recording: true }],
  ...changes,
});

const facts = (disks: DiskFacts[], parentProblems: VmFacts['parentProblems'] = []): VmFacts => ({
  uuid: VM,
  name: 'web-1',
  power: 'running',
  disks,
  checkpoints: [checkpointName(PARENT)],
  parentProblems,
});

const parentOf = (...disks: DiskFacts[]): BackupRecord =>
  ({
    backup: { id: PARENT, host: 'kvm-1' },
    disks: disks.map(({ target, serial, sourcePath, virtualSizeBytes, mark }, number) => ({
      target,
      number,
      serial,
      sourcePath,
      virtualSizeBytes,
      sourceMark: mark,
      file: `${VM}/disk-${number}/full-20261121-120000.qcow2`,
    })),
  }) as unknown as BackupRecord;

const NUMBERS = new Map([
  ['vda', 0],
  ['vdb', 1],
]);

function plan(changes: Partial<DiskPlanInput> & Pick<DiskPlanInput, 'facts'>) {
  return planDisks({
    includeDisks: [],
    excludeDisks: [],
    parent: parentOf(disk('vda'), disk('vdb')),
    chainReason: 'first-backup',
    host: 'kvm-1',
    knownNumbers: NUMBERS,
    forcedFull: new Map(),
    ...changes,
  });
}

/** Type of each disk, or why it is full. */
const kinds = (input: Parameters<typeof plan>[0]): Record<string, FullReason | 'incremental'> =>
  Object.fromEntries(plan(input).disks.map(({ target, fullReason }) => [target, fullReason ?? 'incremental']));

describe('planDisks', () => {
  it('copies an increment where nothing is in doubt', () => {
    const { disks } = plan({ facts: facts([disk('vda'), disk('vdb')]) });
    expect(disks).toMatchObject([
      { target: 'vda', number: 0, type: 'incremental', parentFile: `${VM}/disk-0/full-20261121-120000.qcow2` },
      { target: 'vdb', number: 1, type: 'incremental', parentFile: `${VM}/disk-1/full-20261121-120000.qcow2` },
    ]);
  });

  it.each<[FullReason, string, DiskFacts, VmFacts['parentProblems']?]>([
    ['disk-resized', 'another size', disk('vdb', { virtualSizeBytes: 2 * GiB })],
    ['disk-replaced', 'another serial', disk('vdb', { serial: 'OTHER' })],
    ['disk-replaced', 'another image', disk('vdb', { sourcePath: '/images/other.qcow2', bitmaps: [] })],
    ['disk-replaced', 'another image that has the bitmap too', disk('vdb', { sourcePath: '/images/vda.qcow2' })],
    ['checkpoint-lost', 'no bitmap', disk('vdb', { bitmaps: [] })],
    [
      'checkpoint-lost',
      "another tool's bitmap",
      disk('vdb', { bitmaps: [{ name: 'other', inconsistent: false, recording: true }] }),
    ],
    [
      'bitmap-inconsistent',
      'a bitmap that was not closed',
      disk('vdb', { bitmaps: [{ name: checkpointName(PARENT), inconsistent: true, recording: false }] }),
    ],
    [
      'bitmap-inconsistent',
      'a bitmap that does not record',
      disk('vdb', { bitmaps: [{ name: checkpointName(PARENT), inconsistent: false, recording: false }] }),
    ],
    [
      'parent-missing',
      'a file of its chain is gone',
      disk('vdb'),
      [{ file: `${VM}/disk-1/full-20261120-120000.qcow2`, problem: 'missing' }],
    ],
    [
      'parent-missing',
      'the sums of a file of its chain are gone',
      disk('vdb'),
      [{ file: `${VM}/disk-1/full-20261120-120000.qcow2.sums`, problem: 'missing' }],
    ],
    [
      'parent-damaged',
      'a file of its chain is short',
      disk('vdb'),
      [{ file: `${VM}/disk-1/full-20261120-120000.qcow2`, problem: 'damaged' }],
    ],
    ['disk-replaced', 'another file under its name', disk('vdb', { mark: { born: '2', below: '' } })],
    ['image-changed', 'another backing file', disk('vdb', { mark: { born: '1', below: '/base=1:2' } })],
    ['image-changed', 'what is below cannot be told any more', disk('vdb', { mark: { born: '1', below: null } })],
    ['format-without-bitmaps', 'a raw image', disk('vdb', { format: 'raw', bitmaps: [] })],
  ])('copies one disk in full, %s: %s; and leaves the other incremental', (reason, _, vdb, problems = []) => {
    expect(kinds({ facts: facts([disk('vda'), vdb], problems) })).toEqual({ vda: 'incremental', vdb: reason });
  });

  it('compares birth times on one host only, and only where both are known', () => {
    const moved = facts([disk('vda', { mark: { born: '7', below: '' } }), disk('vdb', { mark: undefined })]);
    expect(kinds({ facts: moved, host: 'kvm-2' })).toEqual({ vda: 'incremental', vdb: 'incremental' });
    expect(kinds({ facts: facts([disk('vda', { mark: { born: null, below: '' } })]) })).toEqual({ vda: 'incremental' });
  });

  it('copies a disk in full that the parent has not, and gives it a folder of its own', () => {
    const { disks } = plan({ facts: facts([disk('vda'), disk('vdb'), disk('vdc')]) });
    expect(disks[2]).toMatchObject({ target: 'vdc', number: 2, type: 'full', fullReason: 'disk-added' });
  });

  it('copies all disks in full when a manifest of the chain is gone', () => {
    const gone = { file: `${VM}/backups/${PARENT}.json`, problem: 'missing' } as const;
    expect(kinds({ facts: facts([disk('vda'), disk('vdb')], [gone]) })).toEqual({
      vda: 'parent-missing',
      vdb: 'parent-missing',
    });
  });

  it('takes two disks that changed places for what they are', () => {
    const swapped = [
      disk('vda', { sourcePath: '/images/vdb.qcow2' }),
      disk('vdb', { sourcePath: '/images/vda.qcow2' }),
    ];
    expect(kinds({ facts: facts(swapped) })).toEqual({ vda: 'disk-replaced', vdb: 'disk-replaced' });
  });

  it('follows an image that was moved by its serial', () => {
    const before = disk('vda', { serial: 'SN-1' });
    const moved = disk('vda', { serial: 'SN-1', sourcePath: '/elsewhere/vda.qcow2' });
    expect(kinds({ parent: parentOf(before), facts: facts([moved]) })).toEqual({ vda: 'incremental' });
  });

  it('gives the reason of the chain to all when there is no parent, but names formats that never had a choice', () => {
    const disks = [disk('vda'), disk('vdb', { format: 'raw' })];
    expect(kinds({ parent: undefined, chainReason: 'chain-size-reached', facts: facts(disks) })).toEqual({
      vda: 'chain-size-reached',
      vdb: 'format-without-bitmaps',
    });
  });

  it('copies in full what a later step found in doubt', () => {
    const forcedFull = new Map([['vda', 'checkpoint-lost'] as const]);
    expect(kinds({ forcedFull, facts: facts([disk('vda'), disk('vdb')]) })).toEqual({
      vda: 'checkpoint-lost',
      vdb: 'incremental',
    });
  });

  it('skips drives, excluded disks and passed-through LUNs, by name', () => {
    const { disks, skippedDisks } = plan({
      excludeDisks: ['vdb'],
      facts: facts([
        disk('vda'),
        disk('vdb'),
        disk('hda', { device: 'cdrom' }),
        disk('hdb', { device: 'cdrom', virtualSizeBytes: null }),
        disk('fda', { device: 'floppy' }),
        disk('sda', { device: 'lun' }),
        disk('sdb', { virtualSizeBytes: null }),
      ]),
    });
    expect(disks.map(({ target }) => target)).toEqual(['vda']);
    expect(skippedDisks).toEqual([
      { target: 'vdb', reason: 'excluded' },
      { target: 'hda', reason: 'cdrom' },
      { target: 'hdb', reason: 'cdrom' },
      { target: 'fda', reason: 'floppy' },
      { target: 'sda', reason: 'passed-through LUN' },
      { target: 'sdb', reason: 'empty drive' },
    ]);
  });
});
