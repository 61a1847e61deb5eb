import { describe, expect, it } from 'vitest';
import { isOwnNvram, nvramPathFor, placeOfKeptFile } from '../../activities/host/kept-file-place.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { KeptFile } from '../../schemas/manifest.ts';

const UUID = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const OTHER = '7f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const definition = parseDomainXml(
  `<domain type='kvm'><name>web-1</name><uuid>${UUID}</uuid><memory>1024</memory><vcpu>1</vcpu>
   <os><type>hvm</type><nvram>/srv/web-1_VARS.fd</nvram></os><devices/></domain>`,
);
const file = (kind: KeptFile['kind'], path: string): KeptFile => ({ kind, path, mode: 0o600, sha256: '', content: '' });

describe('where a kept file goes', () => {
  it('takes the path of UEFI variables from the host, not from the manifest', () => {
    expect(placeOfKeptFile(file('nvram', '/etc/passwd'), definition, UUID)).toBe('/srv/web-1_VARS.fd');
  });
  it("puts TPM state into libvirt's folder of the VM, also of a new one", () => {
    const state = file('tpm', `/var/lib/libvirt/swtpm/${OTHER}/tpm2/tpm2-00.permall`);
    expect(placeOfKeptFile(state, definition, OTHER)).toBe(`/var/lib/libvirt/swtpm/${UUID}/tpm2/tpm2-00.permall`);
  });
  it.each(['/etc/cron.d/x', `/var/lib/libvirt/swtpm/${UUID}/../../../../etc/x`, `/var/lib/libvirt/swtpm/${UUID}/`])(
    'refuses TPM state at %s',
    (path) => {
      expect(() => placeOfKeptFile(file('tpm', path), definition, UUID)).toThrow(/does not lie in/);
    },
  );
  it("calls only plain files of libvirt's own folder its own", () => {
    expect(isOwnNvram('/var/lib/libvirt/qemu/nvram/web-1_VARS.fd')).toBe(true);
    for (const path of ['/etc/shadow', '/var/lib/libvirt/qemu/nvram/../x.fd', '/var/lib/libvirt/qemu/nvram/x']) {
      expect(isOwnNvram(path)).toBe(false);
    }
  });
  it('names the UEFI variables of a new VM after it, and stays in the folder', () => {
    expect(nvramPathFor('/srv/web-1_VARS.fd', '../../etc/x')).toBe('/srv/.._.._etc_x_VARS.fd');
  });
});
