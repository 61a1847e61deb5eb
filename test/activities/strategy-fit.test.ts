import { describe, expect, it } from 'vitest';
import { whyNotSnapshot, type StrategyFacts } from '../../activities/strategy-fit.ts';

const disk = (changes: Partial<StrategyFacts['disks'][number]> = {}): StrategyFacts['disks'][number] => ({
  target: 'vda',
  device: 'disk',
  sourceType: 'file',
  sourcePath: '/images/a.raw',
  format: 'raw',
  shareable: false,
  readOnly: false,
  ...changes,
});
const ALL = { includeDisks: [], excludeDisks: [] };

describe('whyNotSnapshot', () => {
  it('finds nothing against raw and qcow2 files, CD-ROMs and empty drives', () => {
    const disks = [
      disk(),
      disk({ target: 'vdb', format: 'qcow2' }),
      disk({ target: 'sda', device: 'cdrom', sourceType: 'network', readOnly: true }),
      disk({ target: 'vdc', sourcePath: null }),
    ];
    expect(whyNotSnapshot({ name: 'web-1', disks }, ALL)).toEqual([]);
  });

  it.each<[string, Partial<StrategyFacts['disks'][number]>, RegExp]>([
    ['a block device', { sourceType: 'block' }, /disk vda of VM web-1 is no file \(block\)/],
    ['a network disk', { sourceType: 'network', sourcePath: null }, /is no file \(network\)/],
    ['a VMDK', { format: 'vmdk' }, /is vmdk: an overlay on it could not be merged back/],
    ['a shared disk', { shareable: true }, /is shared/],
    ['a read-only disk', { readOnly: true }, /is read-only/],
  ])('names %s, and the remedy', (_, changes, reason) => {
    const reasons = whyNotSnapshot({ name: 'web-1', disks: [disk(changes)] }, ALL);
    expect(reasons).toEqual([expect.stringMatching(reason)]);
    expect(reasons[0]).toMatch(/--exclude-disk/);
    expect(whyNotSnapshot({ name: 'web-1', disks: [disk(changes)] }, { ...ALL, excludeDisks: ['vda'] })).toEqual([]);
    expect(whyNotSnapshot({ name: 'web-1', disks: [disk(changes)] }, { ...ALL, includeDisks: ['vdb'] })).toEqual([]);
  });

  it('names snapshots with memory', () => {
    const [reason] = whyNotSnapshot({ name: 'web-1', disks: [disk()], memorySnapshots: ['before', 'after'] }, ALL);
    expect(reason).toMatch(/snapshots with memory.*: before, after; delete them/);
  });
});
