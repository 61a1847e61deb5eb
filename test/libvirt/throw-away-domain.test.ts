import { describe, expect, it } from 'vitest';
import { DomainXmlError, parseDomainXml } from '../../libvirt/domain-xml.ts';
import { throwAwayDomain, type ThrowAwayChanges } from '../../libvirt/throw-away-domain.ts';

const CHANGES: ThrowAwayChanges = {
  name: 'holdfast-validate-x',
  uuid: '11111111-2222-3333-4444-555555555555',
  macs: ['52:54:00:00:00:01', '52:54:00:00:00:02'],
  nvramPath: '/scratch/nvram.fd',
  kernelPath: '/scratch/kernel',
  initrdPath: '/scratch/initrd',
  disks: [{ target: 'vda', overlayPath: '/scratch/vda.qcow2', socketPath: '/run/h/vda', exportName: 'vda' }],
};
const DISK = `<disk type='file' device='disk' snapshot='external'>
  <driver name='qemu' type='raw' cache='none' io='native' iothread='1'/>
  <source file='/images/a.img' index='1'><seclabel model='dac' relabel='yes'/></source>
  <target dev='vda' bus='virtio'/><iotune><total_iops_sec>10</total_iops_sec></iotune>
  <serial>S1</serial><boot order='1'/><alias name='virtio-disk0'/>
  <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/></disk>`;

const domainOf = (devices: string, { os = '', more = '', attributes = '' } = {}): string =>
  `<domain type='kvm' id='7' ${attributes}><name>web-1</name><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>
  <memory unit='MiB'>512</memory><vcpu placement='static' cpuset='0-1' current='1'>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>${os}</os>${more}
  <devices><emulator>/tmp/evil</emulator>${DISK}${devices}</devices></domain>`;
const made = (devices: string, options?: Parameters<typeof domainOf>[1]) =>
  throwAwayDomain(domainOf(devices, options), CHANGES);

describe('a throw-away domain', () => {
  it('bears its own name and UUID, also where the firmware tells it', () => {
    const { xml } = made('', {
      more: `<sysinfo type='smbios'><system><entry name='uuid'>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</entry></system></sysinfo>`,
    });
    expect(parseDomainXml(xml)).toMatchObject({ name: CHANGES.name, uuid: CHANGES.uuid, type: 'kvm', id: -1 });
    expect(xml).not.toContain('aaaaaaaa');
  });

  it('has its disks as layers over exports nobody can write to, at the places the guest knows', () => {
    const { xml } = made('');
    expect(xml).toContain(
      `<disk type="file" device="disk"><driver name="qemu" type="qcow2" cache="unsafe" discard="unmap"/>` +
        `<source file="/scratch/vda.qcow2"/><backingStore type="network"><format type="raw"/>` +
        `<source protocol="nbd" name="vda"><host transport="unix" socket="/run/h/vda"/><reconnect delay="20"/></source>` +
        `<backingStore/></backingStore>` +
        `<target dev="vda" bus="virtio"/><serial>S1</serial><boot order="1"/>`,
    );
    expect(xml).toContain('slot="0x04"');
    expect(xml).not.toContain('/images/');
  });

  it('unplugs every network cable and gives the cards new addresses', () => {
    const { xml } = made(
      `<interface type='bridge'><mac address='52:54:00:aa:aa:aa'/><source bridge='br0'/><model type='virtio'/><bandwidth/>
         <rom file='/etc/shadow'/><boot order='2'/><link state='up'/><target dev='vnet3'/></interface>
       <interface type='vhostuser'><source type='unix' path='/run/vhu' mode='client'/><model type='e1000'/></interface>`,
    );
    const { interfaces } = parseDomainXml(xml);
    expect(interfaces).toMatchObject([
      { type: 'user', mac: CHANGES.macs[0], model: 'virtio', linkDown: true, target: null },
      { type: 'user', mac: CHANGES.macs[1], model: 'e1000', linkDown: true },
    ]);
    expect(xml).not.toMatch(/br0|vhu|vnet3|rom|bandwidth/);
  });

  it.each([
    [
      'a CD-ROM',
      `<disk type='file' device='cdrom'><source file='/iso/x.iso'/><target dev='sda' bus='sata'/></disk>`,
      'cdrom sda',
    ],
    [
      'a disk that is not in the backup',
      `<disk type='block' device='disk'><source dev='/dev/sdz'/><target dev='vdz'/></disk>`,
      'disk vdz',
    ],
    [
      'PCI passthrough',
      `<hostdev mode='subsystem' type='pci'><source><address slot='0x1'/></source></hostdev>`,
      'hostdev',
    ],
    ['a shared folder', `<filesystem type='mount'><source dir='/etc'/><target dir='x'/></filesystem>`, 'filesystem'],
    ['shared memory', `<shmem name='x'/>`, 'shmem'],
    [
      'a TPM of the host',
      `<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>`,
      'tpm',
    ],
    ['vsock', `<vsock><cid auto='no' address='3'/></vsock>`, 'vsock'],
    [
      'a network card of the host',
      `<interface type='hostdev'><source><address slot='0x2'/></source></interface>`,
      'interface',
    ],
    [
      'another channel',
      `<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>`,
      'channel',
    ],
    ['a device no libvirt knows', `<backdoor path='/dev/mem'/>`, 'backdoor'],
  ])('leaves out %s, and says so', (_, device, left) => {
    const { xml, left: told } = made(device);
    expect(told).toEqual([left]);
    expect(xml).not.toMatch(/\/iso|\/dev\/|\/etc|hostdev|shmem|spice|vsock|backdoor/);
  });

  it.each([
    ['graphics on a port', `<graphics type='vnc' port='5901' passwd='secret'/>`],
    ['sound', `<sound model='ich9'/><audio id='1' type='alsa'/>`],
    ['USB redirection', `<redirdev bus='usb' type='tcp'><source mode='connect' host='x' service='4000'/></redirdev>`],
    [
      'a console on a socket',
      `<console type='unix'><source mode='bind' path='/run/c'/><target type='virtio'/></console>`,
    ],
  ])('leaves out %s, which no guest depends on', (_, device) => {
    const { xml, left } = made(device);
    expect(left).toEqual([]);
    expect(xml).not.toMatch(/graphics|secret|sound|audio|redirdev|console/);
  });

  it('keeps serial ports, but connects them to nothing', () => {
    const { xml } = made(
      `<serial type='file'><source path='/etc/passwd'/><log file='/etc/group'/><target type='isa-serial' port='0'/></serial>`,
    );
    expect(xml).toContain('<serial type="null"><target type="isa-serial" port="0"/></serial>');
    expect(xml).not.toContain('/etc');
  });

  it('keeps the channel of the guest agent, with a socket that libvirt chooses', () => {
    const { xml, hasAgentChannel } = made(
      `<channel type='unix'><source mode='bind' path='/run/ga'/><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>`,
    );
    expect(hasAgentChannel).toBe(true);
    expect(xml).toContain('<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>');
    expect(made('').hasAgentChannel).toBe(false);
  });

  it.each([
    ['qxl', 'vga'],
    ['virtio', 'virtio'],
    ['cirrus', 'cirrus'],
  ])('shows %s as %s, without the graphics of the host', (model, shown) => {
    const { xml, hasScreen } = made(
      `<video><model type='${model}' ram='65536' primary='yes' blob='on'><acceleration accel3d='yes'/></model><driver name='vhostuser'/></video>`,
    );
    expect(hasScreen).toBe(true);
    expect(xml).toContain(`<video><model type="${shown}" primary="yes"/></video>`);
  });

  it('has no screen where the VM has none', () => {
    expect(made(`<video><model type='none'/></video>`).hasScreen).toBe(false);
    expect(made('').hasScreen).toBe(false);
  });

  it('passes nothing to QEMU past libvirt, and pins nothing to the host', () => {
    const { xml } = made('', {
      attributes: `xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'`,
      more: `<qemu:commandline><qemu:arg value='-monitor'/></qemu:commandline><cputune/><numatune/><iothreads>1</iothreads>
        <memoryBacking><hugepages/></memoryBacking><seclabel type='none' model='dac'/><launchSecurity type='sev'/>
        <metadata><x/></metadata><sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>
        <cpu mode='host-model'><numa><cell id='0' cpus='0' memory='1' memAccess='shared'/></numa></cpu>
        <on_crash>coredump-destroy</on_crash>`,
    });
    expect(xml).not.toMatch(
      /qemu:|commandline|tune|iothreads|memoryBacking|seclabel|sev|metadata|fwcfg|numa|coredump|evil|cpuset/,
    );
    expect(xml).toContain('<cpu mode="host-model"/>');
    expect(xml).toContain('<vcpu current="1">2</vcpu>');
  });

  it('boots from copies of kernel and initial RAM disk, with its own UEFI variables', () => {
    const { xml } = made('', {
      os: `<loader readonly='yes' type='pflash'>/usr/share/OVMF/CODE.fd</loader>
        <nvram template='/usr/share/OVMF/VARS.fd'>/var/lib/libvirt/qemu/nvram/web-1_VARS.fd</nvram>
        <kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd><cmdline>quiet</cmdline><dtb>/etc/shadow</dtb>
        <acpi><table type='slic'>/etc/shadow</table></acpi>`,
    });
    expect(parseDomainXml(xml)).toMatchObject({
      kernel: '/scratch/kernel',
      initrd: '/scratch/initrd',
      nvram: { path: '/scratch/nvram.fd', template: '/usr/share/OVMF/VARS.fd' },
    });
    expect(xml).toContain('<cmdline>quiet</cmdline>');
    expect(xml).toContain('/usr/share/OVMF/CODE.fd');
    expect(xml).not.toMatch(/shadow|\/boot|web-1_VARS/);
  });

  it('keeps an emulated TPM', () => {
    const { xml, hasTpm } = made(
      `<tpm model='tpm-crb'><backend type='emulator' version='2.0' debug='10'><source type='file' path='/x'/></backend></tpm>`,
    );
    expect(hasTpm).toBe(true);
    expect(xml).toContain('<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm>');
  });

  it('is refused when a disk of the backup is not in the definition', () => {
    const disks = [...CHANGES.disks, { ...CHANGES.disks[0]!, target: 'vdb' }];
    expect(() => throwAwayDomain(domainOf(''), { ...CHANGES, disks })).toThrow(DomainXmlError);
    expect(() => throwAwayDomain('<domain><name>x</name></domain>', CHANGES)).toThrow(DomainXmlError);
  });
});
