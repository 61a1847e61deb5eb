import { spawn } from 'node:child_process';

/** A program did not do what it was asked. The message has the command, how it ended, and the end of its stderr. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed';
  readonly exitCode: number | null;
  constructor(command: string[], how: string, stderrTail: string, exitCode: number | null) {
    super(`${command.join(' ')}: ${how}${stderrTail === '' ? '' : `: ${stderrTail}`}`);
    this.exitCode = exitCode;
  }
}

const MAX_OUTPUT_BYTES = 8 * 1024 * 1024;
const STDERR_TAIL_CHARS = 2000;
const GRACE_MS = 5000;

/**
 * Runs a program to its end and gives its stdout. Arguments go to it as they are, through no shell. Cancelled: SIGTERM,
 * after a grace time SIGKILL; the promise settles only when the program is gone.
 * @throws CommandFailed, or the signal's reason
 */
export async function runCommand(command: [string, ...string[]], { signal }: { signal: AbortSignal }): Promise<string> {
  signal.throwIfAborted();
  const [program, ...args] = command;
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  let stderr = '';
  const output = { tooLong: false };
  let killer: NodeJS.Timeout | undefined;
  const stop = (): void => {
    child.kill('SIGTERM');
    killer ??= setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
  };
  child.stdout.on('data', (chunk: Buffer) => {
    stdoutBytes += chunk.length;
    if (stdoutBytes <= MAX_OUTPUT_BYTES) stdout.push(chunk);
    else if (!output.tooLong) {
      output.tooLong = true;
      stop();
    }
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-STDERR_TAIL_CHARS);
  });
  signal.addEventListener('abort', stop, { once: true });
  try {
    const { code, killed } = await new Promise<{ code: number | null; killed: NodeJS.Signals | null }>(
      (done, failed) => {
        child.once('error', failed);
        child.once('close', (exitCode, exitSignal) => done({ code: exitCode, killed: exitSignal }));
      },
    );
    signal.throwIfAborted();
    if (output.tooLong) throw new CommandFailed(command, `more than ${MAX_OUTPUT_BYTES} bytes of output`, '', code);
    if (code === 0) return Buffer.concat(stdout).toString('utf8');
    throw new CommandFailed(
      command,
      killed === null ? `exit code ${code ?? '?'}` : `ended by ${killed}`,
      stderr.trim(),
      code,
    );
  } finally {
    signal.removeEventListener('abort', stop);
    clearTimeout(killer);
  }
}
