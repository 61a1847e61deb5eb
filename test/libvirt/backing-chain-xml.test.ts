import { describe, expect, it } from 'vitest';
import { ioErrorPoliciesOf, layerOnExports, standAlone } from '../../libvirt/backing-chain-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';

const domain = (disks: string): string =>
  `<domain type='kvm'><name>web-1</name><uuid>6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e</uuid><devices>${disks}</devices></domain>`;
const disk = (target: string, driver: string, more = ''): string =>
  `<disk type='file' device='disk'>${driver}<source file='/images/${target}'/>${more}<target dev='${target}'/></disk>`;
const EXPORT = { socketPath: '/run/a&b/vda', exportName: 'vda' };

describe('layerOnExports', () => {
  const xml = domain(
    disk('vda', `<driver name='qemu' type='raw' cache='none'/>`, '<backingStore/>') +
      disk('vdb', `<driver name='qemu' type='qcow2'/>`),
  );
  const layered = layerOnExports(xml, { '/images/vda': EXPORT });

  it('names the export, and that there is nothing beneath it', () => {
    expect(layered).toContain(
      `<backingStore type="network"><format type="raw"/><source protocol="nbd" name="vda">` +
        `<host transport="unix" socket="/run/a&amp;b/vda"/><reconnect delay="20"/></source>` +
        `<backingStore/></backingStore><target dev="vda"/>`,
    );
    const [vda, vdb] = parseDomainXml(layered).disks;
    expect(vda?.backingChain).toEqual([{ sourceType: 'network', path: null, format: 'raw' }]);
    expect(vdb?.backingChain).toEqual([]);
  });

  it('makes a failing read or write stop the guest, and the image a qcow2', () => {
    expect(layered).toContain(
      `<driver name="qemu" type="qcow2" cache="none" error_policy="stop" rerror_policy="stop"/>`,
    );
    expect(layered).toContain(`<driver name="qemu" type="qcow2"/>`); // vdb
    expect(layerOnExports(domain(disk('vda', '')), { '/images/vda': EXPORT })).toContain(
      `<driver type="qcow2" error_policy="stop" rerror_policy="stop"/><source`,
    );
  });

  it('refuses an image that is not there', () => {
    expect(() => layerOnExports(xml, { '/images/vdc': EXPORT })).toThrow('the domain has no disk /images/vdc');
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
    const back = standAlone(layerOnExports(xml, { '/images/vda': EXPORT }), policies);
    expect(back).toContain(expected);
    expect(back).not.toContain('backingStore');
  });

  it('passes over a disk that was detached meanwhile', () => {
    const xml = domain(disk('vda', `<driver type='qcow2'/>`));
    expect(standAlone(xml, { '/images/gone': { write: null, read: null } })).toContain('/images/vda');
  });
});
