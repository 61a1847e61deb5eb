import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Guest } from '../test/support/guest.ts';
import { run } from '../test/support/run.ts';
import type { Bench } from './harness.ts';

/** The peer: `virtnbdbackup` from apt, on a guest of its own, because it refuses checkpoints that are not its own. */
export function virtnbdbackup({ folder, host }: Bench, guest: Guest) {
  const output = join(folder, `virtnbdbackup-${guest.name}`);
  // In the host's own namespaces: by another host name it takes a daemon for a remote one, and goes through TCP.
  const onHost = ['--target', String(host.libvirtdPid()), '--mount', '--uts'];
  const backup = async (level: 'full' | 'inc', ...options: string[]): Promise<void> => {
    await run('nsenter', [
      ...[...onHost, 'virtnbdbackup', '-n', '-d', guest.name, '-S', folder],
      ...['-l', level, ...options, '-o', output],
    ]);
  };
  return {
    full: (...options: string[]) => backup('full', ...options),
    inc: (...options: string[]) => backup('inc', ...options),
    restore: async (into: string): Promise<void> => {
      await run('nsenter', [...onHost, 'virtnbdrestore', '-n', '-i', output, '-o', into]);
    },
    files: async (): Promise<string[]> =>
      (await readdir(output)).filter((name) => name.endsWith('.data')).map((name) => join(output, name)),
    discard: () => rm(output, { recursive: true, force: true }),
  };
}
