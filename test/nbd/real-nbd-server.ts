import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { endProcess, until } from '../support/processes.ts';

export interface RealNbdServer extends AsyncDisposable {
  readonly socketPath: string;
  readonly pid: number;
  /** SIGKILL: connections break in the middle of whatever they did. */
  kill(): Promise<void>;
}

let lastServer = 0;

/** `qemu-nbd`, read-only; `args` name the image and what else. */
export async function startQemuNbd(folder: string, args: string[], { shared = 16 } = {}): Promise<RealNbdServer> {
  const socketPath = join(folder, `qemu-${++lastServer}.sock`);
  const child = spawn('qemu-nbd', ['-r', '-t', '-e', String(shared), '-k', socketPath, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return await started(child, socketPath);
}

/** `nbdkit` with a plugin and its parameters. */
export async function startNbdkit(folder: string, args: string[]): Promise<RealNbdServer> {
  const socketPath = join(folder, `nbdkit-${++lastServer}.sock`);
  const child = spawn('nbdkit', ['-f', '-U', socketPath, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  return await started(child, socketPath);
}

async function started(child: ChildProcess, socketPath: string): Promise<RealNbdServer> {
  let said = '';
  child.stderr?.on('data', (bytes: Buffer) => (said += bytes.toString()));
  const { pid } = child;
  if (pid === undefined) throw new Error(`${child.spawnfile} does not start`);
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  await until(`${child.spawnfile} listens`, () => {
    if (hasEnded()) throw new Error(`${child.spawnargs.join(' ')}: ${said}`);
    return existsSync(socketPath);
  });
  return {
    socketPath,
    pid,
    async kill() {
      child.kill('SIGKILL');
      await until('the NBD server has ended', hasEnded);
    },
    [Symbol.asyncDispose]: () => endProcess(pid),
  };
}
