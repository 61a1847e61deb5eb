import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { devState, type DevState } from '../../schemas/configuration.ts';
import { HOLDFAST } from '../cli/run-cli.ts';
import { endProcess, isRunning, signalProcess, until } from '../support/processes.ts';
import { tempDir } from '../support/temp.ts';

it('leaves no process behind when it is told twice to end', async () => {
  await using dir = await tempDir();
  const { TEMPORAL_ADDRESS: _address, ...env } = process.env;
  const dev = spawn(HOLDFAST, ['dev', '--data', dir.path, '--libvirt', join(dir.path, 'no-socket')], {
    env: { ...env, HOLDFAST_DEV_PORTS: '' },
    stdio: 'ignore',
    detached: true, // in a process group of its own, so that only it gets the signals
  });
  const state = (): DevState | undefined => {
    try {
      return devState.parse(JSON.parse(readFileSync(join(dir.path, 'run', 'dev.json'), 'utf8')));
    } catch {
      return undefined; // not written yet
    }
  };
  try {
    await until('it has started all', () => ['temporal', 'host'].every((name) => state()?.processes[name]), {
      timeoutMs: 60_000,
    });
    const pids = Object.values(state()!.processes);
    expect(pids.length).toBeGreaterThanOrEqual(2);
    await until('it has ended', () => {
      signalProcess(dev.pid!, 'SIGTERM');
      return !isRunning(dev.pid!);
    });
    try {
      await until('its processes have ended', () => !pids.some(isRunning), { timeoutMs: 10_000 });
    } finally {
      for (const pid of pids) await endProcess(pid);
    }
  } finally {
    await endProcess(dev.pid!);
  }
});
