import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

/** True while the process runs; a zombie does not. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** Sends a signal; a process that is gone already is fine. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Waits until a condition holds; throws, naming it, when it does not in time. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  { timeoutMs = 30_000, everyMs = 20 } = {},
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`);
    await delay(everyMs);
  }
}

/** Ends a process: asks, then insists. */
export async function endProcess(pid: number, graceMs = 5_000): Promise<void> {
  signalProcess(pid, 'SIGTERM');
  try {
    await until(`process ${pid} has ended`, () => !isRunning(pid), { timeoutMs: graceMs });
  } catch {
    signalProcess(pid, 'SIGKILL');
    await until(`process ${pid} has ended`, () => !isRunning(pid));
  }
}
