import { createHash } from 'node:crypto';
import type { Backup } from '../../schemas/backup.ts';
import type { Strategy } from '../../schemas/states.ts';

/** What one disk of a VM must read as. */
export class ModelDisk {
  readonly target: string;
  readonly content: Buffer;
  constructor(target: string, content: Buffer) {
    this.target = target;
    this.content = content;
  }
  get sha256(): string {
    return createHash('sha256').update(this.content).digest('hex');
  }
}

/** A backup that came about, and what each of its disks must read as for ever. */
export interface ModelBackup {
  readonly backup: Backup;
  readonly sha256: Readonly<Record<string, string>>;
  readonly contents: Readonly<Record<string, Buffer>>;
  /** Deleted by the user: gone from the list, its files may still serve others. */
  deleted: boolean;
}

/** What must be true of one VM, kept apart from the thing itself. */
export class ModelVm {
  readonly name: string;
  readonly strategy: Strategy;
  readonly chainSize: number;
  readonly disks: ModelDisk[];
  running = false;
  readonly backups: ModelBackup[] = [];
  /** The open chain, its full first; empty when the next backup must be full. */
  chain: ModelBackup[] = [];
  /** Of a chain that ended with the delete of its newest: their checkpoints go with the next backup. */
  ended: ModelBackup[] = [];

  constructor(options: {
    name: string;
    strategy: Strategy;
    chainSize: number;
    targets: readonly string[];
    sizeBytes: number;
  }) {
    this.name = options.name;
    this.strategy = options.strategy;
    this.chainSize = options.chainSize;
    this.disks = options.targets.map((target) => new ModelDisk(target, Buffer.alloc(options.sizeBytes)));
  }

  get living(): ModelBackup[] {
    return this.backups.filter(({ deleted }) => !deleted);
  }

  get shas(): Record<string, string> {
    return Object.fromEntries(this.disks.map(({ target, sha256 }) => [target, sha256]));
  }

  /** What the next backup must be. */
  nextType({ isolated, full }: { isolated: boolean; full: boolean }): Backup['type'] {
    return isolated || full || this.chain.length === 0 ? 'full' : 'incremental';
  }

  /** Notes a backup of the VM as it is now. */
  stored(backup: Backup, { isolated }: { isolated: boolean }): void {
    const noted: ModelBackup = {
      backup,
      sha256: this.shas,
      contents: Object.fromEntries(this.disks.map(({ target, content }) => [target, Buffer.from(content)])),
      deleted: false,
    };
    this.backups.push(noted);
    this.ended = [];
    if (isolated) return;
    this.chain = backup.type === 'full' ? [noted] : [...this.chain, noted];
    if (this.chain.length >= this.chainSize) this.chain = [];
  }

  /** The VM's disks are those of the backup again; nothing can be built on what was there. */
  restored({ contents }: ModelBackup): void {
    for (const { target, content } of this.disks) contents[target]?.copy(content);
    this.chain = [];
    this.ended = [];
  }

  deleted(gone: ModelBackup): void {
    gone.deleted = true;
    if (this.chain.at(-1) === gone) this.#end();
  }

  deletedWithChain(gone: ModelBackup): void {
    const { chainId } = gone.backup;
    for (const each of this.backups)
      if (each === gone || (chainId !== null && each.backup.chainId === chainId)) each.deleted = true;
    if (this.chain.some(({ deleted }) => deleted)) this.#end();
  }

  #end(): void {
    this.ended = [...this.ended, ...this.chain];
    this.chain = [];
  }
}
