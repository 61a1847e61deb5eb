import { spawn, type ChildProcess } from 'node:child_process';
import type { ThawGuard } from '../activities/host/quiesce.ts';

/**
 * Starts the guard process of a host worker. It is in a session of its own, so that what kills the worker's process
 * group leaves it, and ends by itself when the worker is gone and no guest of it is frozen.
 */
export function startThawGuard(libvirtAddress: string): ThawGuard & AsyncDisposable {
  let child = start(libvirtAddress);
  const tell = (line: string): void => {
    if (child.exitCode !== null || child.signalCode !== null) child = start(libvirtAddress);
    child.stdin?.write(`${line}\n`);
  };
  return {
    frozen: (uuid) => tell(`frozen ${uuid}`),
    thawed: (uuid) => tell(`thawed ${uuid}`),
    async [Symbol.asyncDispose]() {
      const ended = new Promise((done) => child.once('exit', done));
      child.stdin?.end();
      if (child.exitCode === null && child.signalCode === null) await ended;
    },
  };
}

function start(libvirtAddress: string): ChildProcess {
  const script = new URL('./thaw-guard.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, libvirtAddress], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  child.unref();
  child.stdin.on('error', () => undefined); // the guard was killed: the next line starts another
  return child;
}
