import { describe, expect, it } from 'vitest';
import { attachedFileName, busFor, freeTarget, identityFor } from '../../activities/host/attach-targets.ts';
import type { DomainDefinition } from '../../libvirt/domain-xml.ts';

const vmXml = (devices: string): string =>
  `<domain type='qemu'><name>web-2</name><uuid>6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e</uuid><memory>1024</memory>
   <devices>${devices}</devices></domain>`;
const disk = (target: string, bus: string): string =>
  `<disk type='file' device='disk'><source file='/images/${target}'/><target dev='${target}' bus='${bus}'/></disk>`;
const SCSI = `<controller type='scsi' index='0' model='virtio-scsi'/>`;

describe('busFor', () => {
  const stopped = (devices: string) => ({ inactiveXml: vmXml(devices), liveXml: null });
  const running = (devices: string) => ({ inactiveXml: vmXml(devices), liveXml: vmXml(devices) });
  it.each([
    ['as it was on a stopped VM', stopped(''), 'sata', 'sata'],
    ['virtio where the backup does not say', stopped(''), null, 'virtio'],
    ['virtio for a bus nobody knows', stopped(''), 'x', 'virtio'],
    ['as it was on a running VM that can', running(disk('vda', 'virtio')), 'virtio', 'virtio'],
    ['no SCSI where there is no controller', running(disk('vda', 'virtio')), 'scsi', 'virtio'],
    ['SCSI where there is one', running(SCSI + disk('sda', 'scsi')), 'scsi', 'scsi'],
    ['virtio for SATA, which takes nothing while the VM runs', running(SCSI + disk('vda', 'virtio')), 'sata', 'virtio'],
    ['SCSI for SATA where the guest knows only that', running(SCSI + disk('sda', 'scsi')), 'sata', 'scsi'],
  ])('is %s', (_, vm, wanted, bus) => {
    expect(busFor(vm, wanted)).toBe(bus);
  });
});

describe('freeTarget', () => {
  const taken = (...targets: string[]) => targets.map((target) => ({ target }));
  it.each([
    ['the one it had', taken('vda'), 'virtio', 'vdc', 'vdc'],
    ['the first free one', taken('vda', 'vdb'), 'virtio', 'vda', 'vdc'],
    ['one of the bus', taken('vda', 'vdb'), 'scsi', 'vda', 'sda'],
    [
      'one of two letters',
      taken(...Array.from({ length: 26 }, (_, n) => `vd${String.fromCodePoint(97 + n)}`)),
      'virtio',
      null,
      'vdaa',
    ],
  ])('is %s', (_, disks, bus, wanted, target) => {
    expect(freeTarget('web-2', disks, { bus, wanted, isAsked: false })).toBe(target);
  });

  it('is refused when the one a person names is taken, or of another bus', () => {
    const ask = (wanted: string) => freeTarget('web-2', taken('vda'), { bus: 'virtio', wanted, isAsked: true });
    expect(() => ask('vda')).toThrow(/VM web-2 has a disk vda already/);
    expect(() => ask('sda')).toThrow(/a disk on virtio is called vd…, not sda/);
    expect(ask('vdf')).toBe('vdf');
  });
});

describe('identityFor', () => {
  const backup = { backupId: '3f2c9a41-0000-4000-8000-000000000000', disk: 'vda' };
  const vmWith = (...disks: { serial: string | null; wwn?: string }[]): DomainDefinition[] => [
    { disks: disks.map(({ serial, wwn }) => ({ serial, wwn: wwn ?? null })) } as unknown as DomainDefinition,
  ];
  it.each([
    ['stays without one', null, [], null],
    ['is kept', 'ROOT', [{ serial: 'DATA' }], 'ROOT'],
    ['is changed where another disk has it', 'ROOT', [{ serial: 'ROOT' }], 'hf-3f2c9a41-vda'],
    [
      'is changed where a guest sees the same first twenty characters',
      '12345678901234567890-B',
      [{ serial: '12345678901234567890-A' }],
      'hf-3f2c9a41-vda',
    ],
    [
      'is changed again for the same disk once more',
      'ROOT',
      [{ serial: 'ROOT' }, { serial: 'hf-3f2c9a41-vda' }],
      'hf-3f2c9a41-0',
    ],
  ])('a serial number %s', (_, serial, disks, kept) => {
    expect(identityFor(vmWith(...disks), { serial, wwn: null }, backup).serial).toBe(kept);
  });

  it('leaves out a world wide name that another disk has', () => {
    const wwn = '5000c50015ea71aa';
    expect(identityFor(vmWith({ serial: null, wwn }), { serial: null, wwn }, backup).wwn).toBeNull();
    expect(identityFor(vmWith(), { serial: null, wwn }, backup).wwn).toBe(wwn);
  });
});

it('names a file by what it holds', () => {
  expect(attachedFileName('../web 1', 'vda', '3f2c9a41-0000', 'qcow2')).toBe('_._web_1-vda-3f2c9a41.qcow2');
  expect(attachedFileName('web-1', 'sdb', '3f2c9a41-0000', 'raw')).toBe('web-1-sdb-3f2c9a41.img');
});
