import { spawn } from 'node:child_process';

export interface Finished {
  stdout: Buffer;
  stderr: string;
}

/** Runs a program to its end. Throws with its command, exit code and stderr when it fails. */
export async function run(
  command: string,
  args: readonly string[],
  { input, signal }: { input?: string | Buffer; signal?: AbortSignal } = {},
): Promise<Finished> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...(signal && { signal }) });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  child.stdin.on('error', () => {}); // it ended without reading all of its input
  child.stdin.end(input);
  const { promise, resolve, reject } = Promise.withResolvers<number | string>();
  child.once('error', reject);
  child.once('close', (code, killedBy) => resolve(code ?? killedBy ?? 'unknown'));
  const ended = await promise;
  const errors = Buffer.concat(stderr).toString();
  if (ended !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${ended}: ${errors.trim()}`);
  return { stdout: Buffer.concat(stdout), stderr: errors };
}
