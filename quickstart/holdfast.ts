import { backup, restoredVm, type Backup, type RestoredVm } from '../schemas/backup.ts';
import { run } from '../test/support/run.ts';
import { HOLDFAST } from './dev-process.ts';

/** The command line, as a script uses it. */
export class Holdfast {
  readonly #dataDir: string;
  readonly #signal: AbortSignal;
  constructor(dataDir: string, signal: AbortSignal) {
    this.#dataDir = dataDir;
    this.#signal = signal;
  }

  async takeBackup(vm: string): Promise<Backup> {
    return backup.parse(await this.#json('backup', 'take', vm));
  }

  async restore(backupId: string, ...options: string[]): Promise<RestoredVm> {
    return restoredVm.parse(await this.#json('restore', backupId, ...options));
  }

  async #json(...args: string[]): Promise<unknown> {
    const all = ['--data', this.#dataDir, '--json', ...args];
    const { stdout } = await run(HOLDFAST, all, { signal: this.#signal });
    return JSON.parse(stdout.toString());
  }
}
