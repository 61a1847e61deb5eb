import { describe, expect, it } from 'vitest';
import { DomainXmlError, parseDomainXml } from '../../libvirt/domain-xml.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';

const UUID = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';

/** As libvirt shows a running domain, with one of each thing that matters. */
const LIVE = `<domain type='kvm' id='7'>
  <name>web-1</name>
  <uuid>${UUID}</uuid>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>a &amp; b</nova:name></nova:instance>
  </metadata>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <sysinfo type='smbios'><system><entry name='manufacturer'>x</entry><entry name='uuid'>${UUID}</entry></system></sysinfo>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web-1_VARS.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/images/a&amp;b "c".qcow2' index='3'/>
      <backingStore type='file' index='4'>
        <format type='qcow2'/>
        <source file='/images/base.qcow2'/>
        <backingStore type='block'>
          <format type='raw'/>
          <source dev='/dev/vg/golden'/>
          <backingStore/>
        </backingStore>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>S-1</serial>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='block' device='lun'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg/data'><reservations managed='yes'/></source>
      <target dev='sdb' bus='scsi'/>
      <shareable/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu'/>
      <source protocol='rbd' name='pool/image'><host name='mon' port='6789'/><auth username='u'/></source>
      <mirror type='file'><source file='/x'/></mirror>
      <target dev='vdc' bus='virtio'/>
      <transient/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:AA:bb:01'/>
      <source network='default'/>
      <target dev='vnet3'/>
      <model type='virtio'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:aa:bb:02'/>
      <source bridge='br0'/>
      <link state='down'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-7-web-1/org.qemu.guest_agent.0'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <tpm model='tpm-crb'>
      <backend type='emulator' version='2.0' persistent_state='yes'><encryption secret='${UUID}'/></backend>
    </tpm>
  </devices>
</domain>`;

const domain = (inner: string, devices = ''): string =>
  `<domain type='qemu'><name>a</name><uuid>${UUID}</uuid>${inner}<devices>${devices}</devices></domain>`;
const disk = (inner: string, attributes = "type='file' device='disk'"): string => `<disk ${attributes}>${inner}</disk>`;

describe('domain XML', () => {
  it('of a running domain is read whole', () => {
    expect(parseDomainXml(LIVE)).toEqual({
      name: 'web-1',
      uuid: UUID,
      type: 'kvm',
      id: 7,
      machine: 'pc-q35-7.2',
      arch: 'x86_64',
      emulator: '/usr/bin/qemu-system-x86_64',
      memoryBytes: 2 ** 31,
      vcpus: 2,
      disks: [
        {
          target: 'vda',
          bus: 'virtio',
          device: 'disk',
          sourceType: 'file',
          sourcePath: '/images/a&b "c".qcow2',
          format: 'qcow2',
          serial: 'S-1',
          wwn: null,
          readOnly: false,
          shareable: false,
          transient: false,
          empty: false,
          alias: 'virtio-disk0',
          backingChain: [
            { sourceType: 'file', path: '/images/base.qcow2', format: 'qcow2' },
            { sourceType: 'block', path: '/dev/vg/golden', format: 'raw' },
          ],
          hasMirror: false,
        },
        expect.objectContaining({ target: 'sdb', device: 'lun', sourcePath: '/dev/vg/data', shareable: true }),
        expect.objectContaining({
          target: 'vdc',
          sourceType: 'network',
          sourcePath: null,
          format: 'raw',
          transient: true,
          empty: false,
          hasMirror: true,
        }),
        expect.objectContaining({ target: 'sda', device: 'cdrom', empty: true, readOnly: true, sourcePath: null }),
      ],
      interfaces: [
        {
          type: 'network',
          mac: '52:54:00:aa:bb:01',
          model: 'virtio',
          source: 'default',
          target: 'vnet3',
          linkDown: false,
        },
        { type: 'bridge', mac: '52:54:00:aa:bb:02', model: null, source: 'br0', target: null, linkDown: true },
      ],
      nvram: {
        path: '/var/lib/libvirt/qemu/nvram/web-1_VARS.fd',
        template: '/usr/share/OVMF/OVMF_VARS_4M.fd',
        format: null,
      },
      tpm: { backend: 'emulator', version: '2.0', persistentState: true, encryptionSecret: UUID },
      kernel: null,
      initrd: null,
      hasAgentChannel: true,
      isAgentConnected: true,
      metadata: {
        'http://openstack.org/xmlns/libvirt/nova/1.1':
          '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>a &amp; b</nova:name></nova:instance>',
      },
    });
  });

  it('of the least a domain can be is read', () => {
    expect(parseDomainXml(domain(''))).toMatchObject({
      id: -1,
      disks: [],
      interfaces: [],
      nvram: null,
      tpm: null,
      hasAgentChannel: false,
      isAgentConnected: null,
    });
  });

  it.each([
    ['<memory>1024</memory>', 2 ** 20],
    ["<memory unit='KB'>1</memory>", 1000],
    ["<memory unit='MiB'>192</memory>", 192 * 2 ** 20],
    ["<memory unit='G'>2</memory>", 2 ** 31],
  ])('gives the bytes of %s', (memory, bytes) => {
    expect(parseDomainXml(domain(memory)).memoryBytes).toBe(bytes);
  });

  it('finds NVRAM written as a source', () => {
    const os = "<os><nvram type='file' format='qcow2'><source file='/nv.fd'/></nvram></os>";
    expect(parseDomainXml(domain(os)).nvram).toEqual({ path: '/nv.fd', template: null, format: 'qcow2' });
  });

  it.each([
    ['nothing', '', /missing root element/],
    ['no XML', 'web-1', /malformed/],
    ['an open tag', '<domain><name>a', /malformed/],
    ['two roots', `${domain('')}${domain('')}`, /malformed/],
    ['text behind the root', `${domain('')}x`, /malformed/],
    ['an unquoted attribute', '<domain type=kvm/>', /malformed/],
    ['an attribute twice', "<domain type='a' type='b'/>", /malformed/],
    ['an unbound prefix', '<domain><x:y/></domain>', /malformed/],
    ['another document', '<network/>', /is <network>, not <domain>/],
    ['a document type', `<!DOCTYPE domain>${domain('')}`, /DOCTYPE/],
    [
      'a file pulled in',
      `<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>`,
      /malformed/,
    ],
    [
      'entities that multiply',
      `<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>${domain('<title>&b;</title>')}`,
      /malformed/,
    ],
    ['an unknown entity', domain('<title>&x;</title>'), /malformed/],
    ['a NUL', domain('<title>\u0000</title>'), /control character/],
    ['a NUL by reference', domain('<title>&#0;</title>'), /control character/],
    ['a control character by reference', domain('<title>&#x1F;</title>'), /control character/],
    ['a code point that is none', domain('<title>&#x110000;</title>'), /control character/],
    ['too deep a nest', domain(`${'<a>'.repeat(300)}${'</a>'.repeat(300)}`), /nested more than/],
    ['too much', `<domain>${' '.repeat(0x400001)}</domain>`, /too many/],
    ['no name', `<domain><uuid>${UUID}</uuid></domain>`, /name is missing/],
    ['two names', domain('<name>b</name>'), /has 2 <name>/],
    ['a name that leaves its folder', `<domain><name>../x</name><uuid>${UUID}</uuid></domain>`, /name is "..\/x"/],
    ['no UUID', '<domain><name>a</name></domain>', /uuid is missing/],
    ['a UUID that is none', '<domain><name>a</name><uuid>../../etc</uuid></domain>', /uuid is/],
    ['a disk without target', domain('', disk("<source file='/a'/>")), /target of a disk is missing/],
    ['a target that is a path', domain('', disk("<target dev='../vda'/>")), /target of a disk is/],
    ['two disks of one target', domain('', disk("<target dev='vda'/>").repeat(2)), /two disks have the target vda/],
    ['two sources', domain('', disk("<source file='/a'/><source file='/b'/><target dev='vda'/>")), /has 2 <source>/],
    ['an unknown kind of disk', domain('', disk("<target dev='vda'/>", "device='tape'")), /"tape"/],
    ['memory that is no number', domain('<memory>much</memory>'), /not a number/],
    ['memory in a unit of its own', domain("<memory unit='pages'>1</memory>"), /unit "pages"/],
  ])('is refused with %s', (_, xml, message) => {
    expect(() => parseDomainXml(xml)).toThrow(DomainXmlError);
    expect(() => parseDomainXml(xml)).toThrow(message);
  });
});

describe('rewritten domain XML', () => {
  it('is the same where nothing was to be changed', () => {
    const same = rewriteDomainXml(LIVE, {});
    expect(parseDomainXml(same)).toEqual(parseDomainXml(LIVE));
    expect(same.replaceAll('"', "'").replaceAll('&quot;', "'")).toBe(LIVE.replaceAll('"', "'"));
  });

  it('keeps text that looks like markup, newlines in attributes and odd characters', () => {
    const odd = domain(
      `<title a='x&#10;y &lt;z&gt;'>&lt;/domain&gt; &amp;amp; \u2028 ä ]]&gt;</title><!-- <x> --><![CDATA[<y>]]>`,
    );
    const title = (xml: string): string => /<title[\s\S]*<\/title>/.exec(xml)?.[0].replaceAll('"', "'") ?? '';
    expect(title(rewriteDomainXml(odd, { name: 'b' }))).toBe(title(odd));
  });

  it('has a new identity, also where the firmware tells it', () => {
    const uuid = 'aaaaaaaa-57a4-4d55-9c0c-0e5a1b1c2d3e';
    const xml = rewriteDomainXml(LIVE, { name: 'a<b>&"\'', uuid });
    expect(parseDomainXml(xml)).toMatchObject({ name: 'a<b>&"\'', uuid });
    expect(xml).toContain(`<entry name="uuid">${uuid}</entry>`);
    expect(xml).toContain('<entry name="manufacturer">x</entry>');
  });

  it('cannot be broken out of by a path', () => {
    const path = `/images/x'/><evil a="&amp;"/>.qcow2`;
    const xml = rewriteDomainXml(LIVE, { disks: { vda: { path } } });
    expect(parseDomainXml(xml).disks[0]?.sourcePath).toBe(path);
    expect(xml).not.toContain('<evil');
  });

  it('has disks elsewhere, without what was true of the former place', () => {
    const xml = rewriteDomainXml(LIVE, {
      disks: {
        vda: { path: '/new/vda.qcow2' },
        sdb: { path: '/new/sdb.qcow2', format: 'qcow2' },
        vdc: { path: '/dev/vg/new', type: 'block', format: 'raw' },
        sda: { path: '/iso' },
      },
    });
    expect(parseDomainXml(xml).disks).toMatchObject([
      {
        target: 'vda',
        sourceType: 'file',
        sourcePath: '/new/vda.qcow2',
        format: 'qcow2',
        backingChain: [],
        serial: 'S-1',
      },
      { target: 'sdb', sourceType: 'file', sourcePath: '/new/sdb.qcow2', format: 'qcow2', shareable: true },
      { target: 'vdc', sourceType: 'block', sourcePath: '/dev/vg/new', format: 'raw', hasMirror: false },
      { target: 'sda', sourcePath: '/iso', empty: false },
    ]);
    for (const stale of ['rbd', '<host', '<auth', 'reservations', 'index=', '/dev/vg/data', 'backingStore']) {
      expect(xml).not.toContain(stale);
    }
  });

  it('forgets backing stores and mirrors', () => {
    const { disks } = parseDomainXml(rewriteDomainXml(LIVE, { removeBackingStores: true }));
    expect(disks.flatMap(({ backingChain }) => backingChain)).toEqual([]);
    expect(disks.some(({ hasMirror }) => hasMirror)).toBe(false);
    expect(disks[0]?.sourcePath).toBe('/images/a&b "c".qcow2');
  });

  it('leaves disks out', () => {
    const { disks } = parseDomainXml(rewriteDomainXml(LIVE, { removeDisks: ['sda', 'vdc'] }));
    expect(disks.map(({ target }) => target)).toEqual(['vda', 'sdb']);
  });

  it('has other network addresses, or lets libvirt make them', () => {
    const macs = ['52:54:00:00:00:01', '52:54:00:00:00:02'];
    const set = parseDomainXml(rewriteDomainXml(LIVE, { macs }));
    expect(set.interfaces.map(({ mac }) => mac)).toEqual(macs);
    const dropped = parseDomainXml(rewriteDomainXml(LIVE, { macs: 'drop' }));
    expect(dropped.interfaces.map(({ mac }) => mac)).toEqual([null, null]);
    expect(() => rewriteDomainXml(LIVE, { macs: macs.slice(1) })).toThrow(/1 MAC addresses for 2/);
  });

  it('has its cables unplugged', () => {
    const { interfaces } = parseDomainXml(rewriteDomainXml(LIVE, { linksDown: true }));
    expect(interfaces.map(({ linkDown }) => linkDown)).toEqual([true, true]);
  });

  it('has NVRAM elsewhere, or lets libvirt place it', () => {
    expect(parseDomainXml(rewriteDomainXml(LIVE, { nvramPath: '/new/VARS.fd' })).nvram).toMatchObject({
      path: '/new/VARS.fd',
      template: '/usr/share/OVMF/OVMF_VARS_4M.fd',
    });
    expect(parseDomainXml(rewriteDomainXml(LIVE, { nvramPath: null })).nvram?.path).toBeNull();
  });

  it.each([
    ['a disk', { disks: { vdz: { path: '/x' } } }, /no disk vdz/],
    ['a disk to leave out', { removeDisks: ['vdz'] }, /no disk vdz/],
    ['NVRAM', { nvramPath: '/x' }, /no <nvram>/],
  ])('is refused where %s is not there', (_, changes, message) => {
    expect(() => rewriteDomainXml(domain('<os/>'), changes)).toThrow(message);
  });
});
