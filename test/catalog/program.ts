import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** A program of `programs/` that runs as a process of its own. It is killed when its scope ends. */
export interface Program extends AsyncDisposable {
  /** The next line it prints; throws, with what it said on stderr, when it ends instead. */
  line(): Promise<string>;
  /** Everything it prints from here to its end. Throws when it fails; being killed is not failing. */
  rest(): Promise<string[]>;
  kill(): void;
}

export function startProgram(name: string, ...args: string[]): Program {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'programs', name), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env['PATH'] },
  });
  const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async line() {
      const next = await lines.next();
      if (!next.done) return next.value;
      await ended;
      throw new Error(`${name} ended: ${stderr}`);
    },
    async rest() {
      const rest: string[] = [];
      for (let next = await lines.next(); !next.done; next = await lines.next()) rest.push(next.value);
      const [code, signal] = await ended;
      if (code !== 0 && signal !== 'SIGKILL') throw new Error(`${name} failed: ${stderr}`);
      return rest;
    },
    kill: () => void child.kill('SIGKILL'),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}
