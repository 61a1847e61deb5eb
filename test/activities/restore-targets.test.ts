import { describe, expect, it } from 'vitest';
import { targetsInPlace, targetsOfNewVm, targetsWhereTheyWere } from '../../activities/host/restore-targets.ts';
import type { DomainDefinition, DomainDisk } from '../../libvirt/domain-xml.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';

const stored = (target: string, changes: Partial<ManifestDisk> = {}) => ({
  target,
  serial: null,
  sourcePath: `/images/${target}.qcow2`,
  sourceFormat: 'qcow2',
  virtualSizeBytes: 1024,
  ...changes,
});
const present = (target: string, changes: Partial<DomainDisk> = {}) => ({
  target,
  device: 'disk',
  sourceType: 'file',
  sourcePath: `/images/${target}.qcow2`,
  format: 'qcow2',
  serial: null,
  empty: false,
  backingChain: [],
  ...changes,
});
const manifestWith = (...disks: ReturnType<typeof stored>[]): Manifest => ({ disks }) as unknown as Manifest;
const vmWith = (...disks: ReturnType<typeof present>[]): DomainDefinition =>
  ({ name: 'web-1', disks }) as unknown as DomainDefinition;

const places = (manifest: Manifest, vm: DomainDefinition): Record<string, string> =>
  Object.fromEntries(targetsInPlace(manifest, vm).present.map(({ disk, path }) => [disk.target, path]));

describe('targetsInPlace', () => {
  it('follows a disk by its serial wherever it went', () => {
    const manifest = manifestWith(stored('vda', { serial: 'A' }), stored('vdb', { serial: 'B' }));
    const vm = vmWith(
      present('vda', { serial: 'B', sourcePath: '/images/vda.qcow2' }),
      present('vdb', { serial: 'A', sourcePath: '/images/vdb.qcow2' }),
    );
    expect(places(manifest, vm)).toEqual({ vda: '/images/vdb.qcow2', vdb: '/images/vda.qcow2' });
  });

  it('follows disks without serials by their images, not by their order', () => {
    const vm = vmWith(
      present('vda', { sourcePath: '/images/vdb.qcow2' }),
      present('vdb', { sourcePath: '/images/vda.qcow2' }),
    );
    expect(places(manifestWith(stored('vda'), stored('vdb')), vm)).toEqual({
      vda: '/images/vda.qcow2',
      vdb: '/images/vdb.qcow2',
    });
  });

  it('does not give a disk that lost its image the image of another', () => {
    const vm = vmWith(
      present('vda', { sourcePath: '/images/vdb.qcow2' }),
      present('vdb', { sourcePath: '/images/new.qcow2' }),
    );
    const found = targetsInPlace(manifestWith(stored('vda'), stored('vdb')), vm);
    expect(found.present.map(({ disk, path }) => [disk.target, path])).toEqual([['vdb', '/images/vdb.qcow2']]);
    expect(found.gone.map(({ target }) => target)).toEqual(['vda']);
    expect(found.untouched.map(({ target }) => target)).toEqual(['vdb']);
  });

  it('takes a new image at the same target for the disk', () => {
    const vm = vmWith(present('vda', { sourcePath: '/images/moved.qcow2' }));
    expect(places(manifestWith(stored('vda')), vm)).toEqual({ vda: '/images/moved.qcow2' });
  });

  it('takes a disk of another size, or with a serial number, at its target for another one', () => {
    const manifest = manifestWith(stored('vda'));
    const elsewhere = { sourcePath: '/images/other.qcow2' };
    const sizes = new Map([['vda', 2048]]);
    expect(targetsInPlace(manifest, vmWith(present('vda', elsewhere)), null, sizes).present).toEqual([]);
    expect(targetsInPlace(manifest, vmWith(present('vda', { ...elsewhere, serial: 'Z' }))).present).toEqual([]);
    expect(targetsInPlace(manifest, vmWith(present('vda', { serial: 'Z' })), null, sizes).present).toHaveLength(1);
  });

  it.each([
    ['is gone', [], []],
    ['has another serial', [present('vda', { serial: 'Z' })], ['vda']],
    ['is a CD-ROM now', [present('vda', { device: 'cdrom' })], []],
    ['has no medium', [present('vda', { empty: true })], []],
  ])('calls a disk gone that %s, and leaves what is there instead', (_, disks, untouched) => {
    const found = targetsInPlace(manifestWith(stored('vda', { serial: 'A' })), vmWith(...disks));
    expect(found.present).toEqual([]);
    expect(found.gone.map(({ target }) => target)).toEqual(['vda']);
    expect(found.untouched.map(({ target }) => target)).toEqual(untouched);
  });

  it('takes only the disks that are asked for, and still gives each its own', () => {
    const manifest = manifestWith(stored('vda', { serial: 'A' }), stored('vdb', { serial: 'B' }));
    const vm = vmWith(present('vda', { serial: 'B' }), present('vdb', { serial: 'A' }));
    const found = targetsInPlace(manifest, vm, ['vda']);
    expect(found.present.map(({ path }) => path)).toEqual(['/images/vdb.qcow2']);
    expect(found.untouched.map(({ target }) => target)).toEqual(['vda']);
    expect(() => targetsInPlace(manifest, vm, ['vdc'])).toThrow(/has no disk vdc; it has vda, vdb/);
  });

  it.each([
    [
      'is a block device',
      [present('vda', { serial: 'A', sourceType: 'block', sourcePath: '/dev/vg/x' })],
      /is no file \(block\)/,
    ],
    [
      'is defined as a layer',
      [present('vda', { backingChain: [{ sourceType: 'file', path: '/images/base.qcow2', format: 'qcow2' }] })],
      /is defined as a layer on \/images\/base.qcow2/,
    ],
  ])('refuses when the disk %s', (_, disks, message) => {
    expect(() => places(manifestWith(stored('vda', { serial: 'A' })), vmWith(...disks))).toThrow(message);
  });
});

describe('targetsWhereTheyWere and targetsOfNewVm', () => {
  it.each(['/images/../etc/shadow', 'images/vda.qcow2', '/images//vda.qcow2', null])(
    'refuse the path %s',
    (sourcePath) => {
      const manifest = manifestWith(stored('vda', { sourcePath }));
      expect(() => targetsWhereTheyWere(manifest)).toThrow(/was no file/);
      expect(targetsOfNewVm(manifest, 'new')[0]?.path).toBe('/var/lib/libvirt/images/new-vda.qcow2');
    },
  );

  it('puts disks of a new VM beside those of the original, its name made harmless', () => {
    const manifest = manifestWith(stored('vda'), stored('vdb', { sourceFormat: 'raw' }));
    expect(targetsOfNewVm(manifest, '.. copy').map(({ path }) => path)).toEqual([
      '/images/_._copy-vda.qcow2',
      '/images/_._copy-vdb.img',
    ]);
  });
});
