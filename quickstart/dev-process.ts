import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { devState } from '../schemas/configuration.ts';
import { endProcess, isRunning, signalProcess, until } from '../test/support/processes.ts';
import { devStatePath } from '../workers/installation.ts';

export const HOLDFAST = join(import.meta.dirname, '..', 'bin', 'holdfast');
const READY_WITHIN_MS = 90_000;
/** The workers let what they do come to a point where it can go on. */
const ENDS_WITHIN_MS = 40_000;

export interface DevProcess {
  /** Rejects when it ends before it is ready. */
  readonly ready: Promise<{ temporalUi: string }>;
  stop(): Promise<void>;
}

/** Starts `holdfast dev` as the leader of a process group: a Ctrl-C meant for us does not reach it. */
export function startDev({ dataDir, args }: { dataDir: string; args: string[] }): DevProcess {
  mkdirSync(dataDir, { recursive: true });
  const logPath = join(dataDir, 'dev.log');
  const log = openSync(logPath, 'a');
  const child = spawn(HOLDFAST, ['dev', '--data', dataDir, ...args], { detached: true, stdio: ['ignore', log, log] });
  closeSync(log);
  child.unref();
  const ended = Promise.withResolvers<never>();
  child.once('error', ended.reject);
  child.once('exit', (code, signal) => {
    void readFile(logPath, 'utf8').then((text) =>
      ended.reject(new Error(`holdfast dev ended with ${signal ?? code ?? 0}: ${text.trim().slice(-2000)}`)),
    );
  });
  ended.promise.catch(() => undefined);
  const isReady = async (): Promise<boolean> => (await readFile(logPath, 'utf8')).split('\n').includes('ready');
  const ready = async () => {
    await Promise.race([
      until('holdfast dev is ready', isReady, { timeoutMs: READY_WITHIN_MS, everyMs: 50 }),
      ended.promise,
    ]);
    const { temporalUi } = devState.parse(JSON.parse(await readFile(devStatePath(dataDir), 'utf8')));
    return { temporalUi };
  };
  const readiness = ready();
  readiness.catch(() => undefined);
  return {
    ready: readiness,
    stop: async () => {
      if (child.pid !== undefined) await endGroup(child.pid);
    },
  };
}

/** Ends a process and then what is left of its group. */
export async function endGroup(leader: number): Promise<void> {
  if (isRunning(leader)) await endProcess(leader, ENDS_WITHIN_MS);
  signalProcess(-leader, 'SIGKILL');
}
