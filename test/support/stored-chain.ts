import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ChainFile, SegmentSum } from '../../copier/contract.ts';

/** Runs qemu-img quietly; its output. */
export const qemuImg = (...args: string[]): string =>
  execFileSync('qemu-img', args, { stdio: ['ignore', 'pipe', 'pipe'] }).toString();

/** Writes into an image: commands of qemu-io, like `write -P 7 64k 4k`. */
export const qemuIo = (path: string, ...commands: string[]): void =>
  void execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });

/** Describes a file as the manifest and its sums would. @param cuts length of the segments, one after the other, repeated */
export async function describeStored(path: string, blobKey: string, cuts = [4 * 1024 * 1024]): Promise<ChainFile> {
  const content = await readFile(path);
  const segments: SegmentSum[] = [];
  for (let offset = 0, index = 0; offset < content.length; index += 1) {
    const bytes = content.subarray(offset, offset + (cuts[index % cuts.length] ?? content.length));
    segments.push({ offset, lengthBytes: bytes.length, sha256: sha256(bytes) });
    offset += bytes.length;
  }
  return { source: { kind: 'file', path, blobKey }, storedBytes: content.length, segments };
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A folder for one test, with what the chain's guest disk reads as in the end. */
export async function chainFolder(): Promise<AsyncDisposable & { path: string; file: (name: string) => string }> {
  const path = await mkdtemp(join(tmpdir(), `holdfast-chain-${randomUUID().slice(0, 4)}-`));
  await mkdir(join(path, 'disk-0'));
  return {
    path,
    file: (name) => join(path, 'disk-0', name),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

/** The bytes a guest would read. */
export async function guestBytes(image: string, folder: string): Promise<Buffer> {
  const raw = join(folder, `guest-${randomUUID()}.raw`);
  qemuImg('convert', '-O', 'raw', image, raw);
  const content = await readFile(raw);
  await rm(raw);
  return content;
}

/** Blocks a file occupies on its file system, in bytes. */
export const occupiedBytes = async (path: string): Promise<number> => (await stat(path)).blocks * 512;

/** One image of a chain that QEMU's tools make. */
export interface Layer {
  size?: string;
  options?: string;
  compress?: boolean;
  writes: string[];
}

/** Makes a chain with QEMU's tools and describes it as a repository would. */
export async function makeChain(
  folder: { file: (name: string) => string },
  layers: Layer[],
  cuts?: number[],
): Promise<{ chain: ChainFile[]; top: string; paths: string[] }> {
  const paths: string[] = [];
  for (const [index, { size, options = 'cluster_size=64k', compress, writes }] of layers.entries()) {
    const path = folder.file(`${index === 0 ? 'full' : 'incr'}-${index}.qcow2`);
    const parent = index === 0 ? undefined : `${index === 1 ? 'full' : 'incr'}-${index - 1}.qcow2`;
    const backing = parent === undefined ? [] : ['-b', parent, '-F', 'qcow2'];
    qemuImg('create', '-q', '-f', 'qcow2', '-o', options, ...backing, path, ...(size === undefined ? [] : [size]));
    if (writes.length > 0) qemuIo(path, ...writes);
    if (compress) {
      const packed = `${path}.packed`;
      qemuImg(
        'convert',
        '-c',
        '-O',
        'qcow2',
        '-o',
        `${options},compression_type=zstd`,
        ...backing.slice(0, 2),
        ...backing.slice(2),
        path,
        packed,
      );
      await rename(packed, path);
    }
    paths.push(path);
  }
  const chain: ChainFile[] = [];
  for (const path of paths) chain.push(await describeStored(path, keyOf(path), cuts));
  return { chain, top: paths.at(-1)!, paths };
}

export const keyOf = (path: string) => `vm/disk-0/${path.slice(path.lastIndexOf('/') + 1)}`;

/** What the guest sees of an image, in bytes. */
export const sizeOf = (image: string): number =>
  (JSON.parse(qemuImg('info', '--output=json', image)) as { 'virtual-size': number })['virtual-size'];
