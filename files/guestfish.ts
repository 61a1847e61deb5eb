import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { access, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { HoldfastError } from '../schemas/failures.ts';
import { shownName } from './shown-name.ts';
import { qemuAcceptsKvm } from '../operations/qemu-accepts-kvm.ts';

/** A disk as an NBD server on a unix socket exports it. */
export interface NbdDisk {
  socketPath: string;
  exportName: string;
}

/** A word of a command: a string, or the bytes of a name from inside a guest. */
export type Word = string | Uint8Array;

export const INSTALL_HINT =
  'on Debian and Ubuntu: apt-get install guestfish libguestfs-xfs ntfs-3g; on Fedora and RHEL: dnf install guestfs-tools libguestfs-xfs';
export const KERNEL_HINT =
  'on Debian: apt-get install linux-image-cloud-amd64; on Ubuntu: apt-get install linux-image-virtual; on Ubuntu a kernel in /boot is readable for root only';

const STDERR_TAIL_CHARS = 4000;

/**
 * libguestfs' shell, driven through its stdin: it boots a small VM of its own that has the disks as copy-on-write layers
 * over read-only NBD exports, and whose kernel, never the host's, reads their file systems. A command that fails ends it.
 * Source of its language: guestfish(1), "QUOTING"
 */
export class Guestfish implements AsyncDisposable {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #ended: Promise<void>;
  readonly #folder: string;
  readonly #marker = `end-${randomBytes(16).toString('hex')}\n`;
  /** What a command printed ends with the marker, which nothing inside a guest can know. */
  readonly #waiting: { done: (output: Buffer) => void; failed: (error: unknown) => void }[] = [];
  #printed: Buffer[] = [];
  #failure: HoldfastError | undefined;
  #pipes = 0;

  private constructor(child: ChildProcessWithoutNullStreams, folder: string) {
    this.#child = child;
    this.#folder = folder;
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(-STDERR_TAIL_CHARS)));
    child.stdout.on('data', (chunk: Buffer) => this.#take(chunk));
    child.stdin.on('error', () => undefined); // it has ended: `close` tells how
    this.#ended = new Promise((ended) => {
      child.once('error', (error) => {
        this.#fail(
          'code' in error && error.code === 'ENOENT'
            ? new HoldfastError('FilesToolMissing', `guestfish is not on the PATH; ${INSTALL_HINT}`, { cause: error })
            : new HoldfastError('FilesNotReadable', `guestfish cannot be run: ${error.message}`, { cause: error }),
        );
        ended();
      });
      child.once('close', (code, signal) => {
        const how = signal === null ? `exit code ${code ?? '?'}` : `ended by ${signal}`;
        this.#fail(new HoldfastError('FilesNotReadable', `libguestfs: ${errorsOf(stderr) || how}`));
        ended();
      });
    });
  }

  /**
   * Boots the small VM.
   * @param folder a private one for its sockets, pipes and copy-on-write layers
   * @param signal ends it, at any time
   * @throws HoldfastError FilesToolMissing, FilesNotReadable
   */
  static async start(
    disks: readonly NbdDisk[],
    { folder, signal }: { folder: string; signal: AbortSignal },
  ): Promise<Guestfish> {
    signal.throwIfAborted();
    const child = spawn('guestfish', [], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {
        LIBGUESTFS_BACKEND: 'direct', // not through libvirt: the sockets are ours alone
        ...((await qemuAcceptsKvm()) ? {} : { LIBGUESTFS_BACKEND_SETTINGS: 'force_tcg' }),
        ...process.env,
        LC_ALL: 'C',
        TMPDIR: folder,
      },
    });
    const fish = new Guestfish(child, folder);
    const stop = (): void => void child.kill('SIGTERM');
    signal.addEventListener('abort', stop, { once: true });
    void fish.#ended.then(() => signal.removeEventListener('abort', stop));
    try {
      for (const { socketPath, exportName } of disks) {
        const options = ['readonly:true', 'format:raw', 'protocol:nbd', `server:unix:${socketPath}`];
        await fish.ask('add-drive', exportName, ...options);
      }
      await fish.ask('run').catch(async (error: unknown) => {
        if (await hasKernel()) throw error;
        throw new HoldfastError(
          'FilesToolMissing',
          `libguestfs finds no kernel to boot its small VM with; ${KERNEL_HINT}`,
          { cause: error },
        );
      });
      return fish;
    } catch (error) {
      await fish[Symbol.asyncDispose]();
      signal.throwIfAborted();
      throw error;
    }
  }

  /** Runs one command and gives what it printed. Commands may be asked for at once; they run one after the other. */
  async ask(command: string, ...words: Word[]): Promise<Buffer> {
    if (this.#failure !== undefined) throw this.#failure;
    const { promise, resolve: done, reject: failed } = Promise.withResolvers<Buffer>();
    this.#waiting.push({ done, failed });
    this.#child.stdin.write(`${[command, ...words.map(quoted)].join(' ')}\necho ${this.#marker}`);
    return await promise;
  }

  /** Runs a command whose last argument is a file it writes to, and hands on what it writes. */
  async *read(command: string, ...words: Word[]): AsyncGenerator<Buffer, void, undefined> {
    const pipe = join(this.#folder, `pipe-${this.#pipes++}`);
    await promisify(execFile)('mkfifo', ['-m', '600', pipe]);
    const content = createReadStream(pipe, { highWaterMark: 256 * 1024 }); // opens when the writer does
    const opened = new Promise<void>((resolve) => content.once('open', () => resolve()).once('close', resolve));
    const asked = this.ask(command, ...words, pipe);
    const failed = asked.then(
      () => undefined,
      async (error: unknown) => {
        if (!content.destroyed) await releaseReader(pipe, opened);
        return error;
      },
    );
    for await (const chunk of content as AsyncIterable<Buffer>) yield chunk;
    const error = await failed;
    if (error !== undefined) throw error as Error;
  }

  /** Ends the small VM. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    if (this.#waiting.length > 0) this.#child.kill('SIGTERM');
    await this.#ended;
  }

  #take(chunk: Buffer): void {
    this.#printed.push(chunk);
    if (!chunk.includes(0x0a)) return;
    let printed = Buffer.concat(this.#printed);
    for (let at = printed.indexOf(this.#marker); at !== -1; at = printed.indexOf(this.#marker)) {
      this.#waiting.shift()?.done(printed.subarray(0, at));
      printed = printed.subarray(at + this.#marker.length);
    }
    this.#printed = [printed];
  }

  #fail(failure: HoldfastError): void {
    this.#failure ??= failure;
    for (const { failed } of this.#waiting.splice(0)) failed(this.#failure);
  }
}

/** In double quotes every byte can be written as its number, so no name can end the word or the line. */
export function quoted(word: Word): string {
  const bytes = Buffer.from(word);
  let text = '"';
  for (const byte of bytes) {
    const character = String.fromCharCode(byte);
    text += /[A-Za-z0-9/._:,=-]/.test(character) ? character : `\\x${byte.toString(16).padStart(2, '0')}`;
  }
  return `${text}"`;
}

/** A writer that stays until the reader has come lets go a reader that waits for one. Opened both ways, it waits for nobody itself. */
async function releaseReader(pipe: string, opened: Promise<void>): Promise<void> {
  await using _writer = await open(pipe, constants.O_RDWR | constants.O_NONBLOCK);
  await opened;
}

/** guestfish's own complaints, without the advice for its developers that follows them. They may quote names of the guest. */
function errorsOf(stderr: string): string {
  const found = [...stderr.matchAll(/^(?:\*stdin\*:\d+: )?libguestfs: error: (.*)$/gm)].map((match) => match[1] ?? '');
  const complaints = found.length > 0 ? found : stderr.trim().split('\n').slice(0, 3);
  return complaints.map((line) => shownName(Buffer.from(line))).join('; ');
}

/** Whether there is a kernel for the small VM where libguestfs looks for one. Source: supermin(1), "SUPERMIN_KERNEL" */
export async function hasKernel(): Promise<boolean> {
  const { SUPERMIN_KERNEL: own, LIBGUESTFS_PATH: appliance } = process.env;
  if (own !== undefined || appliance !== undefined) return true;
  const places = (await namesIn('/boot'))
    .filter((name) => name.startsWith('vmlinuz'))
    .map((name) => join('/boot', name));
  for (const version of await namesIn('/lib/modules')) places.push(join('/lib/modules', version, 'vmlinuz'));
  for (const place of places) if (await isReadable(place)) return true;
  return false;
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

const isReadable = (path: string): Promise<boolean> =>
  access(path, constants.R_OK).then(
    () => true,
    () => false,
  );
