import { spawnSync } from 'node:child_process';

/** Runs a program to its end. @throws with the beginning of its command and its stderr */
export function run(command: string, ...args: string[]): void {
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.slice(0, 6).join(' ')}: ${stderr}`);
}
