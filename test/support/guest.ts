import { createHash, randomUUID } from 'node:crypto';
import { access, chmod, mkdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import type { KvmHost } from './kvm-host.ts';
import { until } from './processes.ts';
import { run } from './run.ts';
import { setTimeout as delay } from 'node:timers/promises';

export interface GuestKernel {
  kernel: string;
  initrd: string;
}

export interface GuestDisk {
  /** `vda`, `vdb`, ... */
  target: string;
  sizeBytes: number;
  format: 'qcow2' | 'raw';
  /** `ext4` is mounted by the guest: the first on /data, others on /data-<target>. */
  fs: 'ext4' | 'none';
  serial?: string;
  /** Default `<dir>/<name>-<target>.<format>`. */
  path?: string;
}

export interface Guest {
  readonly host: KvmHost;
  readonly libvirt: Libvirt;
  readonly name: string;
  readonly uuid: string;
  readonly dom: Domain;
  readonly dir: string;
  readonly disks: readonly (GuestDisk & { path: string })[];
}

const SCRIPT = join(import.meta.dirname, 'guest', 'build-guest.sh');
const CACHE = join(import.meta.dirname, '..', '..', '.tools', 'guest');

/** The guest's kernel and initramfs, built once for each version of the build script. */
export async function buildGuestKernel({ cacheDir = CACHE }: { cacheDir?: string } = {}): Promise<GuestKernel> {
  const version = createHash('sha256')
    .update(await readFile(SCRIPT))
    .digest('hex')
    .slice(0, 16);
  const dir = join(cacheDir, version);
  const built = { kernel: join(dir, 'vmlinuz'), initrd: join(dir, 'initrd.img') };
  if (await exists(built.initrd)) return built;
  // Built beside and moved whole: several test processes may want it at once.
  const draft = join(cacheDir, `draft-${randomUUID().slice(0, 8)}`);
  await mkdir(draft, { recursive: true });
  try {
    await run('bash', [SCRIPT, draft]);
    await rename(draft, dir).catch(async (error: unknown) => {
      if (!(await exists(built.initrd))) throw error; // another one was first
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return built;
}

export interface GuestOptions {
  name: string;
  /** Where its disks go. */
  dir: string;
  disks: GuestDisk[];
  memoryMiB?: number;
  /** More elements for `<devices>`. */
  extraXml?: string;
  /** More elements for `<domain>`. */
  extraDomainXml?: string;
  /** `i440fx` boots quickest; some features need `q35`. */
  machine?: 'pc' | 'q35';
  uuid?: string;
}

/** Makes the disks and defines the domain; it does not run yet. */
export async function createGuest(host: KvmHost, options: GuestOptions): Promise<Guest> {
  const { name, dir, uuid = randomUUID() } = options;
  const kernel = await buildGuestKernel();
  await mkdir(dir, { recursive: true });
  const disks = options.disks.map((disk) => ({
    ...disk,
    path: disk.path ?? join(dir, `${name}-${disk.target}.${disk.format}`),
  }));
  for (const disk of disks) await createDisk(disk);
  const dom = await host.libvirt.define(domainXml({ ...options, uuid }, kernel, disks));
  return { host, libvirt: host.libvirt, name, uuid, dom, dir, disks };
}

/** An image, with a file system if asked for. */
export async function createDisk(disk: {
  path: string;
  sizeBytes: number;
  format: 'qcow2' | 'raw';
  fs: 'ext4' | 'none';
}): Promise<void> {
  const { path, sizeBytes, format, fs } = disk;
  if (fs === 'none') {
    await run('qemu-img', ['create', '-q', '-f', format, path, String(sizeBytes)]);
  } else {
    const raw = format === 'raw' ? path : `${path}.raw`;
    await run('qemu-img', ['create', '-q', '-f', 'raw', raw, String(sizeBytes)]);
    await run('/sbin/mkfs.ext4', ['-q', '-F', '-E', 'nodiscard,lazy_itable_init=1,lazy_journal_init=1', raw]);
    if (format === 'qcow2') {
      await run('qemu-img', ['convert', '-q', '-f', 'raw', '-O', 'qcow2', raw, path]);
      await rm(raw);
    }
  }
  await chmod(path, 0o644); // QEMU may run as a user of its own
}

function domainXml(
  { name, uuid, memoryMiB = 192, machine = 'pc', extraXml = '', extraDomainXml = '' }: GuestOptions & { uuid: string },
  { kernel, initrd }: GuestKernel,
  disks: readonly (GuestDisk & { path: string })[],
): string {
  const diskXml = disks.map(
    ({ target, path, format, serial }) => `
    <disk type='file' device='disk'>
      <driver name='qemu' type='${format}' cache='none' discard='unmap'/>
      <source file='${path}'/>
      <target dev='${target}' bus='virtio'/>${serial === undefined ? '' : `\n      <serial>${serial}</serial>`}
    </disk>`,
  );
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>${uuid}</uuid>
  <memory unit='MiB'>${memoryMiB}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='${machine}'>hvm</type>
    <kernel>${kernel}</kernel>
    <initrd>${initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=5</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  ${extraDomainXml}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>${diskXml.join('')}
    <serial type='file'>
      <source path='/var/log/libvirt/qemu/${name}-serial.log'/>
      <target port='0'/>
    </serial>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <video><model type='vga'/></video>
    <memballoon model='none'/>
    ${extraXml}
  </devices>
</domain>`;
}

/** A guest that is there already, as after a restore. */
export async function findGuest(host: KvmHost, name: string): Promise<Guest> {
  const dom = await host.libvirt.lookupByName(name);
  if (dom === undefined) throw new Error(`there is no domain ${name} on ${host.name}`);
  return { host, libvirt: host.libvirt, name, uuid: dom.uuid, dom, dir: host.dir, disks: [] };
}

type Running = Pick<Guest, 'libvirt' | 'dom'>;

/** Starts it and waits until its agent answers. */
export async function startGuest(guest: Running, { timeoutMs = 60_000 } = {}): Promise<void> {
  await guest.libvirt.create(guest.dom);
  await waitForAgent(guest, { timeoutMs });
}

/** Waits until the agent answers; for a guest that boots. */
export async function waitForAgent({ libvirt, dom }: Running, { timeoutMs = 60_000 } = {}): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    try {
      await libvirt.agentCommand(dom, { execute: 'guest-ping' }, 2);
      return;
    } catch (error) {
      if (Date.now() > deadline) {
        throw new Error(`the agent of ${dom.name} did not answer within ${timeoutMs} ms`, { cause: error });
      }
      await delay(100);
    }
  }
}

/** Shuts it down through the agent and waits until it is off. */
export async function stopGuest({ libvirt, dom }: Running, { timeoutMs = 60_000 } = {}): Promise<void> {
  await using events = libvirt.events({ uuid: dom.uuid, signal: AbortSignal.timeout(timeoutMs) });
  await events.ready;
  if ((await libvirt.state(dom)).state === 'shutoff') return;
  await libvirt.shutdown(dom, { mode: 'agent' });
  for await (const event of events) {
    if ((event.kind === 'lifecycle' && event.event === 'stopped') || event.kind === 'gap') {
      if ((await libvirt.state(dom)).state === 'shutoff') return;
    }
  }
}

export interface GuestExecResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** Runs a program in the guest; `sh -c` for a shell. A program that fails is no error here: look at `exitCode`. */
export async function guestExec(
  { libvirt, dom }: Running,
  [path, ...arg]: readonly [string, ...string[]],
  { input, timeoutMs = 120_000 }: { input?: string | Buffer; timeoutMs?: number } = {},
): Promise<GuestExecResult> {
  const started = (await libvirt.agentCommand(
    dom,
    {
      execute: 'guest-exec',
      arguments: {
        path,
        arg,
        'capture-output': true,
        ...(input !== undefined && { 'input-data': Buffer.from(input).toString('base64') }),
      },
    },
    30,
  )) as { pid: number };
  const deadline = Date.now() + timeoutMs;
  for (let waitMs = 20; ; waitMs = Math.min(waitMs * 2, 250)) {
    const status = (await libvirt.agentCommand(
      dom,
      { execute: 'guest-exec-status', arguments: { pid: started.pid } },
      30,
    )) as { exited: boolean; exitcode?: number; signal?: number; 'out-data'?: string; 'err-data'?: string };
    if (status.exited) {
      const text = (data = ''): string => Buffer.from(data, 'base64').toString();
      return {
        exitCode: status.exitcode ?? 128 + (status.signal ?? 0),
        stdout: text(status['out-data']),
        stderr: text(status['err-data']),
      };
    }
    if (Date.now() > deadline) throw new Error(`${path} in ${dom.name} did not end within ${timeoutMs} ms`);
    await delay(waitMs);
  }
}

/** Runs a shell script in the guest and gives what it printed; throws when it fails. */
export async function guestShell(guest: Running, script: string, options?: { timeoutMs?: number }): Promise<string> {
  const { exitCode, stdout, stderr } = await guestExec(guest, ['/bin/sh', '-ec', script], options);
  if (exitCode !== 0) throw new Error(`in ${guest.dom.name}: ${script}: exit code ${exitCode}: ${stderr.trim()}`);
  return stdout;
}

/** Writes a file in the guest; for big ones let the guest make the content: `dd if=/dev/urandom`. */
export async function guestWriteFile(guest: Running, path: string, content: string | Uint8Array): Promise<void> {
  const { libvirt, dom } = guest;
  const handle = await libvirt.agentCommand(dom, { execute: 'guest-file-open', arguments: { path, mode: 'w' } }, 30);
  const bytes = Buffer.from(content);
  for (let offset = 0; offset < bytes.length; offset += 0xc000) {
    const part = bytes.subarray(offset, offset + 0xc000).toString('base64');
    await libvirt.agentCommand(dom, { execute: 'guest-file-write', arguments: { handle, 'buf-b64': part } }, 30);
  }
  await libvirt.agentCommand(dom, { execute: 'guest-file-close', arguments: { handle } }, 30);
}

/**
 * Begins to hash devices in the guest, past what it has read before. Gives what waits for the result, as `sha256sum` prints it,
 * across moments in which the guest stands still.
 */
export async function startSha256({ libvirt, dom }: Running, ...devices: string[]): Promise<() => Promise<string>> {
  const agent = (execute: string, args: unknown): Promise<unknown> =>
    libvirt.agentCommand(dom, { execute, arguments: args }, 60);
  const { pid } = (await agent('guest-exec', {
    path: '/bin/sh',
    arg: ['-ec', `echo 3 >/proc/sys/vm/drop_caches; sha256sum ${devices.join(' ')}`],
    'capture-output': true,
  })) as { pid: number };
  return async () => {
    let output = '';
    const hasRead = async (): Promise<boolean> => {
      if ((await libvirt.state(dom)).state === 'paused') return false;
      const status = (await agent('guest-exec-status', { pid })) as { exited: boolean; 'out-data'?: string };
      output = Buffer.from(status['out-data'] ?? '', 'base64').toString();
      return status.exited;
    };
    await until('the guest has read its disks', hasRead, { timeoutMs: 150_000, everyMs: 200 });
    return output;
  };
}

/** SHA-256 of a file or device as the guest reads it. */
export async function guestSha256(guest: Running, path: string): Promise<string> {
  const { exitCode, stdout, stderr } = await guestExec(guest, ['/bin/sha256sum', path]);
  if (exitCode !== 0) throw new Error(`sha256sum ${path} in ${guest.dom.name}: ${stderr.trim()}`);
  return stdout.slice(0, 64);
}

/** Makes the guest write all it holds back to its disks. */
export async function guestSync(guest: Running): Promise<void> {
  await guestShell(guest, 'sync');
}

/**
 * Writes a pattern byte through QEMU, past the guest: sets dirty bitmaps as the guest's own writes do. Not for a disk whose
 * file system the guest has mounted. `device` counts the virtio disks from 0.
 */
export async function writePattern(
  { libvirt, dom }: Running,
  {
    device = 0,
    offsetBytes,
    lengthBytes,
    pattern,
  }: {
    device?: number;
    offsetBytes: number;
    lengthBytes: number;
    pattern: number;
  },
): Promise<void> {
  const backend = `/machine/peripheral/virtio-disk${device}/virtio-backend`;
  const text = await libvirt.monitorCommandHmp(
    dom,
    `qemu-io -d ${backend} "write -P ${pattern} ${offsetBytes} ${lengthBytes}"`,
  );
  if (/failed|error/i.test(text)) throw new Error(`qemu-io on ${dom.name}: ${text.trim()}`);
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
