import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

export const HOLDFAST = join(import.meta.dirname, '..', '..', 'bin', 'holdfast');

export interface Ended {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Runs bin/holdfast to its end. Temporal is where nobody listens, unless `env` says otherwise. */
export function runCli(
  args: readonly string[],
  { env = {}, command = HOLDFAST, cwd }: { env?: Record<string, string>; command?: string; cwd?: string } = {},
): Ended {
  const { HOLDFAST_DATA: _data, HOLDFAST_CATALOG: _catalog, ...inherited } = process.env;
  const { status, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    timeout: 25_000,
    cwd,
    env: { ...inherited, TEMPORAL_ADDRESS: '127.0.0.1:1', ...env },
  });
  return { exitCode: status, stdout, stderr };
}
