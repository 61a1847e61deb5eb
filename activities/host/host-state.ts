import { createHash } from 'node:crypto';
import { chown, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { uuid } from '../../schemas/names.ts';
import { statIfThere } from './stat-if-there.ts';

/**
 * Where a host worker keeps things: notes and journals in its state folder, scratch files where there is room, and
 * NBD sockets under a short path, because a socket's path has at most 107 bytes.
 */
export class HostState {
  readonly capturesFolder: string;
  readonly mergesFolder: string;
  readonly validationsFolder: string;
  readonly gatewaysFolder: string;
  readonly #scratchRoot: string;
  readonly #socketRoot: string;

  constructor({ stateDir, scratchDir, runtimeDir }: { stateDir: string; scratchDir: string; runtimeDir: string }) {
    this.capturesFolder = join(stateDir, 'captures');
    this.mergesFolder = join(stateDir, 'merges');
    this.validationsFolder = join(stateDir, 'validations');
    this.gatewaysFolder = join(stateDir, 'gateways');
    this.#scratchRoot = scratchDir;
    this.#socketRoot = join(runtimeDir, createHash('sha256').update(stateDir).digest('hex').slice(0, 12));
  }

  get scratchRoot(): string {
    return this.#scratchRoot;
  }
  get socketRoot(): string {
    return this.#socketRoot;
  }

  scratchFolder = (backupId: string): string => join(this.#scratchRoot, uuid.parse(backupId));
  scratchFile = (backupId: string, target: string): string => join(this.scratchFolder(backupId), `${target}.scratch`);
  socketFolder = (backupId: string): string => join(this.#socketRoot, uuid.parse(backupId));
  socketPath = (backupId: string): string => join(this.socketFolder(backupId), 'nbd');

  /** The backup a socket path of ours belongs to; undefined for anybody else's. */
  backupOfSocket(path: string): string | undefined {
    const [id, name, ...rest] = path.startsWith(`${this.#socketRoot}/`)
      ? path.slice(this.#socketRoot.length + 1).split('/')
      : [];
    return rest.length === 0 && name === 'nbd' && uuid.safeParse(id).success ? id : undefined;
  }

  /**
   * Makes the folders QEMU writes to: nobody else may enter them, since the socket gives the whole disk.
   * @param imagePath an image of the VM; its owner is the user QEMU runs as
   */
  async prepare(backupId: string, imagePath: string | null): Promise<void> {
    await this.prepareFor(backupId, imagePath === null ? undefined : await statIfThere(imagePath));
  }

  /** The same for a user that is known. */
  async prepareFor(backupId: string, owner: { uid: number; gid: number } | undefined): Promise<void> {
    for (const root of [this.#scratchRoot, this.#socketRoot]) await mkdir(root, { recursive: true, mode: 0o711 });
    for (const folder of [this.scratchFolder(backupId), this.socketFolder(backupId)]) {
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { mode: 0o700 });
      if (owner !== undefined && process.getuid?.() === 0) await chown(folder, owner.uid, owner.gid);
    }
  }

  /** The folder for sockets alone; one that is there keeps what is in it. */
  async prepareSockets(id: string, owner: { uid: number; gid: number } | undefined): Promise<void> {
    await mkdir(this.#socketRoot, { recursive: true, mode: 0o711 });
    const folder = this.socketFolder(id);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    if (owner !== undefined && process.getuid?.() === 0) await chown(folder, owner.uid, owner.gid);
  }

  async remove(backupId: string): Promise<void> {
    await rm(this.socketFolder(backupId), { recursive: true, force: true });
    await rm(this.scratchFolder(backupId), { recursive: true, force: true });
  }
}
