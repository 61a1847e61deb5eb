import { describe, expect, it } from 'vitest';
import { diskOnFile, driverOf, freePciSlots, movedDiskXml, newDiskXml } from '../../libvirt/disk-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';

const domain = (devices: string): string =>
  `<domain type='qemu'><name>a</name><uuid>6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e</uuid><memory>1</memory><devices>${devices}</devices></domain>`;
const DISK = `<disk type='block' device='lun' snapshot='no' rawio='yes'>
  <driver name='qemu' type='raw' cache='none' discard='unmap' iothread='2'/>
  <source dev='/dev/vg/root' index='3'><reservations managed='yes'/></source>
  <backingStore type='file'><format type='qcow2'/><source file='/etc/shadow'/></backingStore>
  <target dev='vda' bus='virtio'/><serial>ROOT</serial><boot order='1'/><alias name='virtio-disk0'/>
  <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>`;

describe('newDiskXml', () => {
  it('says the format and escapes what it is given', () => {
    const xml = newDiskXml({
      path: `/images/a'&<b>.qcow2`,
      format: 'qcow2',
      target: 'vdb',
      bus: 'virtio',
      serial: `x'/><source file='/etc/shadow'/>`,
      wwn: null,
      driver: { cache: 'none', discard: `unmap' evil='`, iothread: '2' },
    });
    const [disk] = parseDomainXml(domain(xml)).disks;
    expect(disk).toMatchObject({ sourcePath: `/images/a'&<b>.qcow2`, format: 'qcow2', target: 'vdb', bus: 'virtio' });
    expect(disk?.serial).toBe(`x'/><source file='/etc/shadow'/>`);
    expect(driverOf(domain(xml), 'vdb')).toEqual({ name: 'qemu', type: 'qcow2', cache: 'none' });
  });
});

describe('movedDiskXml', () => {
  const moved = (keep: { address: boolean }): string =>
    movedDiskXml(domain(DISK), 'vda', { path: '/images/new.qcow2', format: 'qcow2', target: 'vdc' }, keep);

  it('keeps what the guest knows the disk by, and nothing of where it lay', () => {
    const xml = moved({ address: true });
    const [disk] = parseDomainXml(domain(xml)).disks;
    expect(disk).toMatchObject({
      target: 'vdc',
      device: 'disk',
      sourceType: 'file',
      sourcePath: '/images/new.qcow2',
      format: 'qcow2',
      serial: 'ROOT',
      bus: 'virtio',
      backingChain: [],
      alias: null,
    });
    expect(xml).toContain(`slot="0x00"`);
    expect(xml).not.toMatch(/shadow|reservations|index=|snapshot=|rawio/);
  });

  it('leaves address and boot order away when they are taken', () => {
    expect(moved({ address: false })).not.toMatch(/address|boot/);
  });

  it('throws for a disk that is not there', () => {
    expect(() =>
      movedDiskXml(domain(''), 'vda', { path: '/a', format: 'raw', target: 'vda' }, { address: true }),
    ).toThrow(/no disk vda/);
  });
});

it('diskOnFile finds a disk by its file alone', () => {
  const xml = newDiskXml({ path: '/images/b', format: 'raw', target: 'vdb', bus: 'virtio', serial: null, wwn: null });
  expect(diskOnFile(domain(DISK + xml), '/images/b')?.target).toBe('vdb');
  expect(diskOnFile(domain(DISK + xml), '/dev/vg/root')).toBeUndefined();
});

describe('freePciSlots', () => {
  const at = (bus: number, slot: number): string =>
    `<video><address type='pci' domain='0x0000' bus='0x0${bus}' slot='0x${slot.toString(16)}' function='0x0'/></video>`;
  const root = (model: string): string => `<controller type='pci' index='0' model='${model}'/>`;
  const port = (index: number): string =>
    `<controller type='pci' index='${index}' model='pcie-root-port'><address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x${index}'/></controller>`;
  it.each([
    ['a root bus with two devices', root('pci-root') + at(0, 2) + at(0, 3), 28],
    ['a root bus that is full', root('pci-root') + Array.from({ length: 30 }, (_, n) => at(0, n + 2)).join(''), 0],
    ['q35 with three ports, one of them in use', root('pcie-root') + port(1) + port(2) + port(3) + at(2, 0), 2],
    ['q35 without ports', root('pcie-root'), 0],
    ['no PCI at all', '', undefined],
  ])('of %s', (_, devices, free) => {
    expect(freePciSlots(domain(devices))).toBe(free);
  });
});
