import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { connectLibvirt, type Libvirt, type LibvirtAddress, LIBVIRT_ERRORS } from '../../libvirt/libvirt.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import {
  createDisk,
  createGuest,
  type Guest,
  guestExec,
  guestSha256,
  guestShell,
  guestWriteFile,
  startGuest,
  stopGuest,
  waitForAgent,
  writePattern,
} from '../support/guest.ts';
import { type KvmHost, startKvmHost } from '../support/kvm-host.ts';
import { until } from '../support/processes.ts';
import { type Sshd, startSshd } from '../support/sshd.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

const MIB = 2 ** 20;

let temp: TempDir;
let host: KvmHost;
let sshd: Sshd;
let guest: Guest;
let images: string;
let scratch: string;

beforeAll(async () => {
  temp = await tempDir();
  images = join(temp.path, 'images');
  scratch = join(temp.path, 'scratch');
  await mkdir(scratch);
  [host, sshd] = await Promise.all([
    startKvmHost({ name: 'kvm-a', dir: join(temp.path, 'a') }),
    startSshd(join(temp.path, 'sshd')),
  ]);
  guest = await createGuest(host, {
    name: 'web-1',
    dir: images,
    disks: [
      { target: 'vda', sizeBytes: 256 * MIB, format: 'qcow2', fs: 'ext4', serial: 'S-1' },
      { target: 'vdb', sizeBytes: 64 * MIB, format: 'qcow2', fs: 'none' },
    ],
  });
  await startGuest(guest);
});

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await sshd[Symbol.asyncDispose]();
  await temp[Symbol.asyncDispose]();
});

const overSsh = (): Extract<LibvirtAddress, { kind: 'ssh' }> => ({
  kind: 'ssh',
  host: '127.0.0.1',
  port: sshd.port,
  user: sshd.user,
  socketPath: host.socketPath,
  privateKeyFile: sshd.keyFile,
  knownHostsFile: sshd.knownHostsFile,
});

const backupXml = (incremental?: string): string => `<domainbackup mode='pull'>
  ${incremental === undefined ? '' : `<incremental>${incremental}</incremental>`}
  <server transport='unix' socket='${scratch}/nbd.sock'/>
  <disks>
    <disk name='vda' backup='yes' type='file' exportname='vda'><scratch file='${scratch}/vda'/></disk>
    <disk name='vdb' backup='yes' type='file' exportname='vdb'><scratch file='${scratch}/vdb'/></disk>
  </disks>
</domainbackup>`;
const checkpointXml = (name: string): string => `<domaincheckpoint><name>${name}</name>
  <disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='bitmap'/></disks></domaincheckpoint>`;
const activeImages = (): Record<string, string> =>
  Object.fromEntries(guest.disks.map((disk) => [disk.target, disk.path]));

describe.each(['unix', 'ssh'] as const)('libvirt over %s', (kind) => {
  let libvirt: Libvirt;
  beforeAll(() => {
    libvirt = connectLibvirt(kind === 'unix' ? { kind: 'unix', path: host.socketPath } : overSsh());
  });
  afterAll(async () => {
    await libvirt[Symbol.asyncDispose]();
  });

  it('describes the host', async () => {
    expect(await libvirt.hostname()).toBe('kvm-a');
    expect(await libvirt.libVersion()).toMatch(/^\d+\.\d+\.\d+$/);
    expect(await libvirt.hypervisorVersion()).toMatch(/^\d+\.\d+\.\d+$/);
    expect(await libvirt.nodeInfo()).toMatchObject({ model: 'x86_64', sockets: expect.any(Number) as number });
    expect((await libvirt.nodeInfo()).memoryBytes).toBeGreaterThan(2 ** 29);
    expect(await libvirt.capabilitiesXml()).toContain('<capabilities>');
    expect(await libvirt.domainCapabilitiesXml({ virtType: 'qemu' })).toContain('<domainCapabilities>');
  });

  it('finds domains, and says undefined of those it has not', async () => {
    const listed = await libvirt.listDomains();
    expect(listed).toEqual([{ name: 'web-1', uuid: guest.uuid, id: expect.any(Number) as number }]);
    expect(await libvirt.lookupByName('web-1')).toEqual(listed[0]);
    expect(await libvirt.lookupByUuid(guest.uuid)).toEqual(listed[0]);
    expect(await libvirt.lookupByName('nix')).toBeUndefined();
    expect(await libvirt.lookupByUuid('aaaaaaaa-57a4-4d55-9c0c-0e5a1b1c2d3e')).toBeUndefined();
  });

  it('reads a domain: its XML, state and disks', async () => {
    expect(await libvirt.state(guest.dom)).toMatchObject({ state: 'running' });
    expect(await libvirt.isPersistent(guest.dom)).toBe(true);
    const live = parseDomainXml(await libvirt.domainXml(guest.dom));
    expect(live).toMatchObject({ name: 'web-1', hasAgentChannel: true, isAgentConnected: true });
    expect(live.disks.map(({ target, serial }) => [target, serial])).toEqual([
      ['vda', 'S-1'],
      ['vdb', null],
    ]);
    expect(parseDomainXml(await libvirt.domainXml(guest.dom, { inactive: true, secure: true }))).toMatchObject({
      id: -1,
      isAgentConnected: null,
    });
    expect(await libvirt.blockInfo(guest.dom, 'vdb')).toMatchObject({ capacityBytes: 64 * MIB });
    expect(await libvirt.blockStats(guest.dom, 'vda')).toMatchObject({ rd_bytes: expect.any(Number) as number });
  });

  it('speaks with the guest agent', async () => {
    await guestWriteFile({ libvirt, dom: guest.dom }, '/data/greeting', 'hello, ä'.repeat(20_000));
    expect(await guestSha256({ libvirt, dom: guest.dom }, '/data/greeting')).toMatch(/^[0-9a-f]{64}$/);
    expect(await guestExec({ libvirt, dom: guest.dom }, ['/bin/sh', '-c', 'echo out; echo err >&2; exit 3'])).toEqual({
      exitCode: 3,
      stdout: 'out\n',
      stderr: 'err\n',
    });
    expect(await libvirt.fsInfo(guest.dom)).toEqual([
      { mountpoint: '/data', name: 'vda', type: 'ext4', disks: ['vda'] },
    ]);
    expect(await libvirt.guestInfo(guest.dom, ['hostname', 'os'])).toMatchObject({ hostname: 'guest' });
  });

  it('freezes and thaws the guest', async () => {
    expect(await libvirt.fsFreeze(guest.dom)).toBe(1);
    expect(await libvirt.agentCommand(guest.dom, { execute: 'guest-fsfreeze-status' }, 5)).toBe('frozen');
    expect(await libvirt.fsThaw(guest.dom)).toBe(1);
    await expectVmClean({ libvirt }, 'web-1', { activeImages: activeImages() });
  });

  it('speaks with QEMU', async () => {
    expect(await libvirt.monitorCommand(guest.dom, { execute: 'query-status' })).toMatchObject({ running: true });
    await expect(libvirt.monitorCommand(guest.dom, { execute: 'no-such-thing' })).rejects.toMatchObject({
      name: 'QmpError',
      errorClass: 'CommandNotFound',
    });
    expect(await libvirt.monitorCommandHmp(guest.dom, 'info status')).toContain('running');
  });

  it('takes a picture of the screen', async () => {
    const { mime, image } = await libvirt.screenshot(guest.dom);
    expect(mime).toBe('image/png');
    expect(image.subarray(1, 4).toString()).toBe('PNG');
  });

  it('begins a pull backup with a checkpoint, finds it again, and ends it', async () => {
    await using events = libvirt.events({ uuid: guest.uuid });
    await events.ready;
    expect(await libvirt.backupXml(guest.dom)).toBeUndefined();
    expect(await libvirt.jobStats(guest.dom)).toMatchObject({ type: 'none' });
    await libvirt.backupBegin(guest.dom, backupXml(), checkpointXml('first'));
    expect(await libvirt.backupXml(guest.dom)).toContain('nbd.sock');
    expect(await libvirt.jobStats(guest.dom)).toMatchObject({ type: 'unbounded', operation: 'backup' });
    await libvirt.abortJob(guest.dom);
    for await (const event of events) {
      if (event.kind !== 'jobCompleted') continue;
      expect(event).toMatchObject({ success: true });
      break;
    }
    const kept = await libvirt.jobStats(guest.dom, { keepCompleted: true });
    expect(kept).toMatchObject({ type: 'completed', operation: 'backup' });
    expect(await libvirt.jobStats(guest.dom, { completed: true })).toEqual(kept);
    await rm(`${scratch}/nbd.sock`, { force: true });

    await writePattern({ libvirt, dom: guest.dom }, { device: 1, offsetBytes: 0, lengthBytes: 65536, pattern: 7 });
    expect(await libvirt.checkpointXml(guest.dom, 'first', { size: true, noDomain: true })).toMatch(
      /vdb.*size='65536'/,
    );
    await libvirt.backupBegin(guest.dom, backupXml('first'), checkpointXml('second'));
    await libvirt.abortJob(guest.dom);
    // QEMU may still be at it when libvirt answers.
    await until('the job has ended', async () => (await libvirt.backupXml(guest.dom)) === undefined);
    await rm(`${scratch}/nbd.sock`, { force: true });
    expect(await libvirt.checkpointList(guest.dom, { topological: true })).toEqual(['first', 'second']);
    expect(await libvirt.checkpointParent(guest.dom, 'second')).toBe('first');
    expect(await libvirt.checkpointParent(guest.dom, 'first')).toBeUndefined();
    await expectVmClean({ libvirt }, 'web-1', {
      activeImages: activeImages(),
      checkpoints: ['first', 'second'],
      emptyDirs: [scratch],
    });
  });

  it('forgets a checkpoint and redefines it from its XML', async () => {
    const xml = await libvirt.checkpointXml(guest.dom, 'second', { secure: true });
    await libvirt.checkpointDelete(guest.dom, 'second', { metadataOnly: true });
    expect(await libvirt.checkpointLookup(guest.dom, 'second')).toBe(false);
    expect(await libvirt.checkpointCreate(guest.dom, xml, { redefine: true })).toBe('second');
    expect(await libvirt.checkpointCreate(guest.dom, xml, { redefineValidate: true })).toBe('second');
    expect(await libvirt.checkpointLookup(guest.dom, 'second')).toBe(true);
    await libvirt.checkpointDelete(guest.dom, 'first', { children: true });
    expect(await libvirt.checkpointList(guest.dom)).toEqual([]);
  });

  it('takes an external snapshot and commits it again', async () => {
    const overlay = join(images, 'overlay.qcow2');
    await using events = libvirt.events({ uuid: guest.uuid, signal: AbortSignal.timeout(60_000) });
    await events.ready;
    const name = await libvirt.snapshotCreate(
      guest.dom,
      `<domainsnapshot><name>s1</name><disks><disk name='vda' snapshot='no'/>
       <disk name='vdb' snapshot='external'><source file='${overlay}'/></disk></disks></domainsnapshot>`,
      { diskOnly: true, atomic: true },
    );
    expect(await libvirt.snapshotList(guest.dom)).toEqual([name]);
    expect(await libvirt.snapshotXml(guest.dom, name)).toContain('overlay.qcow2');
    await libvirt.snapshotDelete(guest.dom, name, { metadataOnly: true });
    expect(parseDomainXml(await libvirt.domainXml(guest.dom)).disks[1]).toMatchObject({
      sourcePath: overlay,
      backingChain: [{ path: guest.disks[1]!.path, format: 'qcow2' }],
    });
    await libvirt.blockCommit(guest.dom, 'vdb', { active: true });
    expect(await libvirt.blockJobInfo(guest.dom, 'vdb')).toMatchObject({ type: 'active-commit' });
    for await (const event of events) if (event.kind === 'blockJob2' && event.status === 'ready') break;
    await libvirt.blockJobAbort(guest.dom, 'vdb', { pivot: true });
    await rm(overlay);
    await expectVmClean({ libvirt }, 'web-1', { activeImages: activeImages() });
  });

  it('pulls a disk’s backing file into it', async () => {
    const overlay = join(images, 'overlay.qcow2');
    const base = guest.disks[1]!.path;
    await libvirt.snapshotCreate(
      guest.dom,
      `<domainsnapshot><disks><disk name='vda' snapshot='no'/>
       <disk name='vdb' snapshot='external'><source file='${overlay}'/></disk></disks></domainsnapshot>`,
      { diskOnly: true, noMetadata: true },
    );
    await libvirt.blockPull(guest.dom, 'vdb');
    await expect.poll(() => libvirt.blockJobInfo(guest.dom, 'vdb'), { timeout: 30_000 }).toBeUndefined();
    expect(parseDomainXml(await libvirt.domainXml(guest.dom)).disks[1]).toMatchObject({
      sourcePath: overlay,
      backingChain: [],
    });
    // And back to where it was, for the tests that follow.
    await libvirt.destroy(guest.dom);
    await rm(overlay);
    await libvirt.define(
      rewriteDomainXml(await libvirt.domainXml(guest.dom, { inactive: true }), { disks: { vdb: { path: base } } }),
    );
    await startGuest({ libvirt, dom: guest.dom });
  });

  it('attaches, resizes and detaches a disk', async () => {
    const path = join(images, 'extra.qcow2');
    await createDisk({ path, sizeBytes: 16 * MIB, format: 'qcow2', fs: 'none' });
    const xml = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${path}'/>
      <target dev='vdc' bus='virtio'/></disk>`;
    await libvirt.attachDevice(guest.dom, xml, { live: true });
    await libvirt.blockResize(guest.dom, 'vdc', 32 * MIB);
    expect(await libvirt.blockInfo(guest.dom, 'vdc')).toMatchObject({ capacityBytes: 32 * MIB });
    await libvirt.detachDevice(guest.dom, xml, { live: true });
    await expect
      .poll(async () => parseDomainXml(await libvirt.domainXml(guest.dom)).disks.length, { timeout: 30_000 })
      .toBe(2);
    await rm(path);
  });

  it('keeps metadata of ours with the domain', async () => {
    const uri = 'https://example.org/holdfast';
    expect(await libvirt.getMetadata(guest.dom, uri, { config: true })).toBeUndefined();
    const element = '<chain>a &amp; b</chain>';
    await libvirt.setMetadata(guest.dom, { uri, prefix: 'hf', element }, { config: true });
    expect(await libvirt.getMetadata(guest.dom, uri, { config: true })).toContain('a &amp; b');
    await libvirt.setMetadata(guest.dom, { uri, prefix: 'hf', element: null }, { config: true });
    expect(await libvirt.getMetadata(guest.dom, uri, { config: true })).toBeUndefined();
  });

  it('pauses, resumes, stops and starts the guest, and tells of it', async () => {
    await using events = libvirt.events({ uuid: guest.uuid, signal: AbortSignal.timeout(60_000) });
    await events.ready;
    await libvirt.suspend(guest.dom);
    expect(await libvirt.state(guest.dom)).toMatchObject({ state: 'paused' });
    await libvirt.resume(guest.dom);
    await stopGuest({ libvirt, dom: guest.dom });
    expect(await libvirt.state(guest.dom)).toMatchObject({ state: 'shutoff' });
    await expect(libvirt.monitorCommand(guest.dom, { execute: 'query-status' })).rejects.toMatchObject({
      code: LIBVIRT_ERRORS.OPERATION_INVALID,
    });
    await startGuest({ libvirt, dom: guest.dom });
    const seen: string[] = [];
    for await (const event of events) {
      if (event.kind === 'lifecycle') seen.push(event.event);
      if (event.kind === 'agentLifecycle' && event.state === 'connected' && seen.includes('started')) break;
    }
    expect(seen).toEqual(expect.arrayContaining(['suspended', 'resumed', 'shutdown', 'stopped', 'started']));
  });

  it('defines and undefines a domain with its checkpoints', async () => {
    const xml = rewriteDomainXml(await libvirt.domainXml(guest.dom, { inactive: true }), {
      name: 'copy',
      uuid: 'bbbbbbbb-57a4-4d55-9c0c-0e5a1b1c2d3e',
      removeDisks: ['vda'],
      disks: { vdb: { path: join(images, 'copy.qcow2') } },
    });
    await createDisk({ path: join(images, 'copy.qcow2'), sizeBytes: MIB, format: 'qcow2', fs: 'none' });
    const copy = await libvirt.create(await libvirt.define(xml, { validate: true }), { paused: true });
    expect(await libvirt.state(copy)).toMatchObject({ state: 'paused' });
    await libvirt.checkpointCreate(copy, '<domaincheckpoint><name>c</name></domaincheckpoint>');
    await libvirt.destroy(copy);
    await expect(libvirt.undefine(copy)).rejects.toMatchObject({ code: LIBVIRT_ERRORS.OPERATION_INVALID });
    await libvirt.undefine(copy, {
      checkpointsMetadata: true,
      snapshotsMetadata: true,
      managedSave: true,
      nvram: true,
    });
    expect(await libvirt.lookupByName('copy')).toBeUndefined();
    await rm(join(images, 'copy.qcow2'));
  });

  it('goes on after libvirtd was killed, with the guest and its backup job still there', async () => {
    await using events = libvirt.events({ uuid: guest.uuid, signal: AbortSignal.timeout(60_000) });
    await events.ready;
    await libvirt.backupBegin(guest.dom, backupXml(), checkpointXml('kept'));
    await host.killLibvirtd('SIGKILL');
    await expect(libvirt.hostname()).rejects.toMatchObject({ name: 'LibvirtConnectionLost' });
    await host.restartLibvirtd();
    expect(await libvirt.hostname()).toBe('kvm-a');
    for await (const event of events) if (event.kind === 'gap') break;
    await expect.poll(async () => (await libvirt.state(guest.dom)).state, { timeout: 10_000 }).toBe('running');
    expect(await libvirt.backupXml(guest.dom)).toContain('nbd.sock');
    expect(await libvirt.jobStats(guest.dom)).toMatchObject({ operation: 'backup' });
    await libvirt.abortJob(guest.dom);
    await rm(`${scratch}/nbd.sock`, { force: true });
    await waitForAgent({ libvirt, dom: guest.dom });
    await libvirt.suspend(guest.dom);
    for await (const event of events) if (event.kind === 'lifecycle' && event.event === 'suspended') break;
    await libvirt.resume(guest.dom);
    await libvirt.checkpointDelete(guest.dom, 'kept');
    await expectVmClean({ libvirt }, 'web-1', { activeImages: activeImages(), emptyDirs: [scratch] });
  });
});

describe('a freeze that hangs', () => {
  it('is given up in the time that was set, and the guest thaws', async () => {
    const { libvirt, dom } = guest;
    await guestShell(guest, 'touch /run/hang-freeze; (sleep 6; rm /run/hang-freeze) >/dev/null 2>&1 &');
    await libvirt.setAgentResponseTimeout(dom, 2);
    await expect(libvirt.fsFreeze(dom)).rejects.toMatchObject({ name: 'LibvirtError' });
    expect(await libvirt.hostname()).toBe('kvm-a');
    await waitForAgent(guest);
    await expect
      .poll(
        async () => {
          await libvirt.fsThaw(dom);
          return await libvirt.agentCommand(dom, { execute: 'guest-fsfreeze-status' }, 5);
        },
        { timeout: 30_000 },
      )
      .toBe('thawed');
  });
});

describe('SSH', () => {
  const refusal = async (address: LibvirtAddress): Promise<unknown> => {
    await using libvirt = connectLibvirt(address);
    return await libvirt.hostname().catch((error: unknown) => error);
  };
  const refused = (text: string): unknown =>
    expect.objectContaining({ name: 'LibvirtRefused', message: expect.stringContaining(text) as string });

  it('lets in with a pinned fingerprint', async () => {
    const pinned = { ...overSsh(), knownHostsFile: '/dev/null', fingerprint: sshd.fingerprint };
    await using libvirt = connectLibvirt(pinned);
    expect(await libvirt.hostname()).toBe('kvm-a');
  });

  it('refuses a host whose key is not the pinned one', async () => {
    const fingerprint = `SHA256:${'A'.repeat(43)}`;
    expect(await refusal({ ...overSsh(), fingerprint })).toEqual(refused('not the pinned'));
  });

  it('refuses a host that known_hosts has another key of', async () => {
    await using other = await startSshd(join(temp.path, 'other-sshd'));
    // The other's port with this one's key: as if another machine had taken the host's place.
    const known = join(temp.path, 'known');
    await writeFile(
      known,
      (await readFile(sshd.knownHostsFile, 'utf8')).replace(String(sshd.port), String(other.port)),
    );
    const address = { ...overSsh(), port: other.port, knownHostsFile: known, privateKeyFile: other.keyFile };
    expect(await refusal(address)).toEqual(refused('another machine may be posing as it'));
  });

  it('refuses a host nobody knows', async () => {
    expect(await refusal({ ...overSsh(), knownHostsFile: '/dev/null' })).toEqual(refused('has no key of 127.0.0.1'));
  });

  it('is told when its key is not let in', async () => {
    await using other = await startSshd(join(temp.path, 'third-sshd'));
    expect(await refusal({ ...overSsh(), privateKeyFile: other.keyFile })).toEqual(refused('does not let'));
  });

  it('says what may be the matter when there is no such socket', async () => {
    expect(await refusal({ ...overSsh(), socketPath: '/run/no-such-socket' })).toMatchObject({
      name: 'LibvirtConnectionLost',
      sent: false,
      message: expect.stringContaining('AllowStreamLocalForwarding') as string,
    });
  });

  it('connects again after sshd was ended and started', async () => {
    await using libvirt = connectLibvirt(overSsh());
    expect(await libvirt.hostname()).toBe('kvm-a');
    await sshd.stop();
    await expect(libvirt.hostname()).rejects.toMatchObject({ name: 'LibvirtConnectionLost' });
    await sshd.start();
    expect(await libvirt.hostname()).toBe('kvm-a');
  });
});

describe('a private KVM host', () => {
  it('leaves no process, mount or file behind', async () => {
    await using dir = await tempDir();
    await using other = await startKvmHost({ name: 'kvm-b', dir: join(dir.path, 'b') });
    const second = await createGuest(other, {
      name: 'db-1',
      dir: join(dir.path, 'images'),
      disks: [{ target: 'vda', sizeBytes: 64 * MIB, format: 'raw', fs: 'ext4' }],
    });
    await startGuest(second);
    expect(await other.libvirt.hostname()).toBe('kvm-b');
    expect(await host.libvirt.listDomains()).toHaveLength(1);
    expect(other.processes().length).toBeGreaterThanOrEqual(2);
    await other[Symbol.asyncDispose]();
    expect(other.processes()).toEqual([]);
    expect(await readFile('/proc/mounts', 'utf8')).not.toContain(dir.path);
    await dir[Symbol.asyncDispose]();
    await expect(stat(dir.path)).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
