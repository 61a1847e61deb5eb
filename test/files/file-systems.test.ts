import { describe, expect, it } from 'vitest';
import { listFileSystems, mountFileSystems } from '../../files/file-systems.ts';
import type { Guestfish, Word } from '../../files/guestfish.ts';

/** Answers by command, or by command and first word; notes what was mounted. */
function fakeFish(answers: Record<string, string>): { fish: Guestfish; mounted: string[] } {
  const mounted: string[] = [];
  const ask = async (command: string, ...words: Word[]): Promise<Buffer> => {
    const asked = [command, ...words.map(String)].join(' ');
    if (command === 'mount-ro') mounted.push(words.map(String).join(' on '));
    return Buffer.from(answers[asked] ?? answers[command] ?? '');
  };
  return { fish: { ask } as unknown as Guestfish, mounted };
}

const DISKS = {
  'list-filesystems': '/dev/sda1: ext4\n/dev/sda2: swap\n/dev/sdb: xfs\n/dev/vg0/data: ext4\n',
  'list-partitions': '/dev/sda1\n/dev/sda2\n',
  'list-devices': '/dev/sda\n/dev/sdb\n/dev/sdc\n',
  lvs: '/dev/vg0/data\n',
};
const TARGETS = ['vda', 'vdc', 'vdd'];

describe('mountFileSystems', () => {
  it.each([
    ['vda1', '/dev/sda1 on /'],
    ['vdc', '/dev/sdb on /'],
    ['vg0/data', '/dev/vg0/data on /'],
  ])('mounts %s by the name that the backup has for it', async (fileSystem, expected) => {
    const { fish, mounted } = fakeFish(DISKS);
    await mountFileSystems(fish, TARGETS, { fileSystem });
    expect(mounted).toEqual([expected]);
  });

  it('mounts the only file system of a disk, and the only one there is', async () => {
    const { fish, mounted } = fakeFish(DISKS);
    await mountFileSystems(fish, TARGETS, { disk: 'vda' });
    expect(mounted).toEqual(['/dev/sda1 on /']);
    const single = fakeFish({ 'list-filesystems': '/dev/sda: ntfs\n' });
    await mountFileSystems(single.fish, ['hda'], {});
    expect(single.mounted).toEqual(['/dev/sda on /']);
  });

  it('mounts an installed system as it does itself, what lies in another after it', async () => {
    const { fish, mounted } = fakeFish({
      ...DISKS,
      'inspect-os': '/dev/sda1\n',
      'inspect-get-mountpoints /dev/sda1': '/srv/data: /dev/vg0/data\n/: /dev/sda1\n/gone: /dev/sdz1\n',
    });
    expect(await mountFileSystems(fish, TARGETS, {})).toEqual([
      { mountpoint: '/', name: 'vda1', type: 'ext4' },
      { mountpoint: '/srv/data', name: 'vg0/data', type: 'ext4' },
    ]);
    expect(mounted).toEqual(['/dev/sda1 on /', '/dev/vg0/data on /srv/data']);
  });

  it.each([
    ['several, and no system', {}, 'choose one with --filesystem'],
    ['a disk without any', { disk: 'vdd' }, 'no readable file system vdd'],
    ['a name that is none', { fileSystem: 'vdq1' }, 'there are: vda1 (ext4), vda2 (swap), vdc (xfs), vg0/data (ext4)'],
  ])('names what there is when it cannot choose: %s', async (_, wanted, expected) => {
    const { fish, mounted } = fakeFish(DISKS);
    await expect(mountFileSystems(fish, TARGETS, wanted)).rejects.toThrow(expected);
    expect(mounted).toEqual([]);
  });
});

it('shows labels as plain text', async () => {
  const { fish } = fakeFish({
    'list-filesystems': '/dev/sda: ext4\n',
    'vfs-label': 'evil\n\x1b[2J\n',
    'blockdev-getsize64': '1048576\n',
  });
  expect(await listFileSystems(fish, ['vda'])).toEqual([
    { name: 'vda', type: 'ext4', label: 'evil\\n\\x1b[2J', sizeBytes: 1_048_576 },
  ]);
});
