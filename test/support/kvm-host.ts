import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createConnection } from 'node:net';
import { openSync, closeSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { cp, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { connectLibvirt, type Libvirt } from '../../libvirt/libvirt.ts';
import { endProcess, isRunning, signalProcess, until } from './processes.ts';

/** A private KVM host on this machine. Disposal ends its guests and its daemon. */
export interface KvmHost extends AsyncDisposable {
  readonly name: string;
  readonly dir: string;
  readonly socketPath: string;
  /** A client of ours to it; disposed with the host. */
  readonly libvirt: Libvirt;
  /** Process id of the daemon that runs or ran last. */
  libvirtdPid(): number;
  /** Ends the daemon and waits until it is gone; guests go on. */
  killLibvirtd(signal?: NodeJS.Signals): Promise<void>;
  /** Starts the daemon again, ending it first if it runs; it finds its guests. */
  restartLibvirtd(): Promise<void>;
  /** Processes of this host: the daemon, QEMUs and their helpers. */
  processes(): number[];
}

const SCRIPT = join(import.meta.dirname, 'kvm-host.sh');
/** What libvirt found QEMU to be capable of, kept between hosts: asking takes it some 3 s. It checks what it finds here. */
const CAPABILITIES = join(import.meta.dirname, '..', '..', '.tools', 'kvm-host', 'capabilities');

/**
 * Starts a libvirtd of its own in `dir` (keep the path short: sockets lie below it). Needs root, libvirt-daemon-system,
 * qemu-system-x86 and util-linux.
 */
export async function startKvmHost({ name, dir }: { name: string; dir: string }): Promise<KvmHost> {
  const socketPath = join(dir, 'run', 'libvirt-sock');
  const pidFile = join(dir, 'run', 'libvirtd.pid');
  const start = async (): Promise<void> => {
    await mkdir(dir, { recursive: true });
    await rm(socketPath, { force: true });
    const log = openSync(join(dir, 'libvirtd.log'), 'a');
    const child = spawn('bash', [SCRIPT, name, dir], { stdio: ['ignore', log, log], detached: true });
    closeSync(log);
    child.unref();
    const failed = Promise.withResolvers<never>();
    child.once('error', failed.reject);
    const tellFailure = (code: number | null): void => {
      const tail = readFileSync(join(dir, 'libvirtd.log'), 'utf8').slice(-2000);
      failed.reject(new Error(`libvirtd of ${name} ended with ${code}: ${tail}`));
    };
    child.once('exit', tellFailure);
    await Promise.race([until(`libvirtd of ${name} listens`, () => listens(socketPath)), failed.promise]);
    child.off('exit', tellFailure);
  };
  const libvirtdPid = (): number => Number(readFileSync(pidFile, 'utf8'));
  const killLibvirtd = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    const pid = libvirtdPid();
    signalProcess(pid, signal);
    await until(`libvirtd of ${name} has ended`, () => !isRunning(pid));
  };
  const capabilities = join(dir, 'cache', 'qemu', 'capabilities');
  await copyCapabilities(CAPABILITIES, capabilities);
  await start();
  const libvirt = connectLibvirt({ kind: 'unix', path: socketPath });
  return {
    name,
    dir,
    socketPath,
    libvirt,
    libvirtdPid,
    killLibvirtd,
    async restartLibvirtd() {
      if (isRunning(libvirtdPid())) await killLibvirtd('SIGTERM');
      await start();
    },
    processes: () => hostProcesses(dir),
    async [Symbol.asyncDispose]() {
      await libvirt[Symbol.asyncDispose]();
      await stopKvmHost(dir);
      await copyCapabilities(capabilities, CAPABILITIES);
    },
  };
}

/** Ends all processes of a host, also one that another process started and left behind. */
export async function stopKvmHost(dir: string): Promise<void> {
  // QEMU before its daemon, which would otherwise be told; each again, should one have started meanwhile.
  for (let round = 0; round < 3; round++) {
    const pids = hostProcesses(dir);
    if (pids.length === 0) return;
    const daemon = pids.filter((pid) => procFile(pid, 'comm').includes('libvirtd'));
    const guests = pids.filter((pid) => !daemon.includes(pid));
    for (const pid of guests) signalProcess(pid, 'SIGKILL');
    await Promise.all([...guests, ...daemon].map((pid) => endProcess(pid)));
  }
}

/** A process belongs to a host when its /run/libvirt is the host's folder: that sees into its mount namespace. */
function hostProcesses(dir: string): number[] {
  const run = join(dir, 'run');
  const mounted = identity(run);
  // Also when somebody removed the folder too early.
  const removed = ` ${run}//deleted /run/libvirt `;
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => {
      const isHere = mounted !== undefined && identity(`/proc/${pid}/root/run/libvirt`) === mounted;
      return (isHere || procFile(pid, 'mountinfo').includes(removed)) && isRunning(pid);
    });
}

/** Whole files only: another host may be copying from or to the same folder. */
async function copyCapabilities(from: string, to: string): Promise<void> {
  const files = await readdir(from).catch(() => []);
  await mkdir(to, { recursive: true });
  for (const file of files.filter((name) => name.endsWith('.xml'))) {
    const target = join(to, file);
    const draft = `${target}.${randomUUID().slice(0, 8)}`;
    await cp(join(from, file), draft, { preserveTimestamps: true });
    await rename(draft, target);
  }
}

function identity(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

function procFile(pid: number, name: 'comm' | 'mountinfo'): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return ''; // it has ended
  }
}

const listens = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
