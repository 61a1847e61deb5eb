import { describe, expect, it } from 'vitest';
import { ioErrorPoliciesOf, layerOnFiles, standAlone } from '../../libvirt/backing-chain-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';

const domain = (disks: string): string =>
  `<domain type='kvm'><name>web-1</name><uuid>6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e</uuid><devices>${disks}</devices></domain>`;
const disk = (target: string, driver: string, more = ''): string =>
  `<disk type='file' device='disk'>${driver}<source file='/images/${target}'/>${more}<target dev='${target}'/></disk>`;
const FILES = ['/srv/a&b/incr.qcow2', '/srv/a&b/full.qcow2'];

describe('layerOnFiles', () => {
  const xml = domain(
    disk('vda', `<driver name='qemu' type='raw' cache='none'/>`, '<backingStore/>') +
      disk('vdb', `<driver name='qemu' type='qcow2'/>`),
  );
  const layered = layerOnFiles(xml, { '/images/vda': FILES });

  it('names every file of the chain, and that there is none beneath the last', () => {
    expect(layered).toContain(
      `<backingStore type="file"><format type="qcow2"/><source file="/srv/a&amp;b/incr.qcow2">` +
        `<seclabel model="dac" relabel="no"/><seclabel model="selinux" relabel="no"/></source>` +
        `<backingStore type="file"><format type="qcow2"/><source file="/srv/a&amp;b/full.qcow2">` +
        `<seclabel model="dac" relabel="no"/><seclabel model="selinux" relabel="no"/></source>` +
        `<backingStore/></backingStore></backingStore><target dev="vda"/>`,
    );
    const [vda, vdb] = parseDomainXml(layered).disks;
    expect(vda?.backingChain.map(({ path }) => path)).toEqual(FILES);
    expect(vdb?.backingChain).toEqual([]);
  });

  it('makes a failing read or write stop the guest, and the image a qcow2', () => {
    expect(layered).toContain(
      `<driver name="qemu" type="qcow2" cache="none" error_policy="stop" rerror_policy="stop"/>`,
    );
    expect(layered).toContain(`<driver name="qemu" type="qcow2"/>`); // vdb
    expect(layerOnFiles(domain(disk('vda', '')), { '/images/vda': [] })).toContain(
      `<driver type="qcow2" error_policy="stop" rerror_policy="stop"/><source`,
    );
  });

  it('refuses an image that is not there', () => {
    expect(() => layerOnFiles(xml, { '/images/vdc': FILES })).toThrow('the domain has no disk /images/vdc');
  });
});

describe('standAlone', () => {
  it.each([
    [`<driver name='qemu' type='qcow2'/>`, { write: null, read: null }, `<driver name="qemu" type="qcow2"/>`],
    [
      `<driver name='qemu' type='qcow2' error_policy='enospace'/>`,
      { write: 'enospace', read: null },
      `<driver name="qemu" type="qcow2" error_policy="enospace"/>`,
    ],
    [
      `<driver name='qemu' type='qcow2' error_policy='report' rerror_policy='ignore'/>`,
      { write: 'report', read: 'ignore' },
      `<driver name="qemu" type="qcow2" error_policy="report" rerror_policy="ignore"/>`,
    ],
  ])('puts back %s', (driver, policy, expected) => {
    const xml = domain(disk('vda', driver));
    const policies = ioErrorPoliciesOf(xml, ['/images/vda']);
    expect(policies).toEqual({ '/images/vda': policy });
    const back = standAlone(layerOnFiles(xml, { '/images/vda': FILES }), policies);
    expect(back).toContain(expected);
    expect(back).not.toContain('backingStore');
  });

  it('passes over a disk that was detached meanwhile', () => {
    const xml = domain(disk('vda', `<driver type='qcow2'/>`));
    expect(standAlone(xml, { '/images/gone': { write: null, read: null } })).toContain('/images/vda');
  });
});
