import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ChainFile } from '../../copier/contract.ts';
import { copyDisk } from '../../copier/copy-disk.ts';
import { restoreDisk } from '../../copier/restore-disk.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { fileSinkOf } from '../../repository/sink.ts';
import { filePathOf } from '../../repository/source.ts';
import { diskFileKey, nameOfKey } from '../../repository/layout.ts';
import { readSums, writeSums } from '../../repository/sums.ts';
import type { StoredFile } from '../../repository/sums.ts';
import { endProcess } from '../support/processes.ts';
import { chainFolder, guestBytes, qemuImg, qemuIo } from '../support/stored-chain.ts';

const MIB = 1024 * 1024;
const VM = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

/** Serves an image over NBD for as long as `use` runs. */
async function served<T>(image: string, folder: string, use: (socketPath: string) => Promise<T>): Promise<T> {
  const socketPath = join(folder, `nbd-${randomUUID().slice(0, 8)}`);
  const pidFile = `${socketPath}.pid`;
  const options = ['-r', '-A', '-t', '-e', '8', '-k', socketPath, '--pid-file', pidFile, '-f', 'qcow2', image];
  const forked = spawn('qemu-nbd', ['--fork', ...options], { stdio: 'ignore' });
  const [code] = (await once(forked, 'exit')) as [number]; // with --fork it ends when the server is ready
  if (code !== 0) throw new Error(`qemu-nbd: exit code ${code}`);
  try {
    return await use(socketPath);
  } finally {
    await endProcess(Number(await readFile(pidFile, 'utf8')));
  }
}

describe.each(['zstd', 'none'] as const)('a chain stored by the copier, compression %s', (compression) => {
  /** Backs up each layer of a disk as the host worker does: upload, copy, finish, sums. */
  async function backUp(store: BlobStore, layers: string[], folder: string, size: number): Promise<StoredFile[]> {
    const stored: StoredFile[] = [];
    for (const [index, image] of layers.entries()) {
      const type = index === 0 ? 'full' : 'incremental';
      const file = diskFileKey({ vmUuid: VM, diskNumber: 0, type, instant: new Date(index * 1000) });
      const upload = await store.createUpload(file, { expectedBytes: 0 });
      const parent = stored.at(-1);
      const result = await served(image, folder, (socketPath) =>
        copyDisk(pool, {
          source: {
            socketPath,
            exportName: '',
            mapContext: index === 0 ? 'base:allocation' : 'qemu:allocation-depth',
            virtualSizeBytes: size,
          },
          ...(parent ? { backingFileName: nameOfKey(parent.file) } : {}),
          compression,
          sink: fileSinkOf(upload),
          journalPath: join(folder, `journal-${index}`),
          signal,
        }),
      );
      await upload.finish(result.storedBytes);
      stored.push({ file, storedBytes: result.storedBytes, sums: await writeSums(store, file, result.segments) });
    }
    return stored;
  }

  const chainOf = (store: BlobStore, files: StoredFile[]): Promise<ChainFile[]> =>
    Promise.all(
      files.map(async (stored) => ({
        source: store.source(stored.file),
        storedBytes: stored.storedBytes,
        segments: await readSums(store, stored),
      })),
    );

  async function makeDisk(folder: Awaited<ReturnType<typeof chainFolder>>, size: number): Promise<string[]> {
    const random = folder.file('random');
    const text = folder.file('text');
    await writeFile(random, randomBytes(8 * MIB));
    await writeFile(text, Buffer.alloc(8 * MIB, 'a line of a log that repeats itself, more or less\n'));
    const names = ['disk-a', 'disk-b', 'disk-c'].map(folder.file);
    qemuImg('create', '-q', '-f', 'qcow2', names[0]!, String(size));
    // Guest clusters that take turns: plain and compressed ones end up in each segment.
    const turns = Array.from({ length: 40 }, (_, n) => `write -s ${n % 2 === 0 ? random : text} ${n * 192}k 192k`);
    qemuIo(names[0]!, ...turns, `write -s ${text} 16M 8M`, `write -s ${random} 30M 5M`, 'write -P 0 40M 2M');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', names[0]!, '-F', 'qcow2', names[1]!);
    qemuIo(names[1]!, `write -s ${random} 3M 300k`, 'write -z 17M 1M', `write -s ${text} 50M 1M`, 'write -P 0 31M 64k');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', names[1]!, '-F', 'qcow2', names[2]!);
    qemuIo(
      names[2]!,
      `write -s ${text} 3100k 64k`,
      `write -s ${random} 17300k 100k`,
      `write -s ${random} ${size - 512} 512`,
    );
    return names;
  }

  it('is restored byte for byte, from repository keys and sums alone, and is a chain QEMU reads', async () => {
    await using folder = await chainFolder();
    const size = 64 * MIB + 512;
    const layers = await makeDisk(folder, size);
    const root = join(folder.path, 'repository');
    await mkdir(root);
    const store = createDirectoryStore(root);
    await initRepository(store, { id: randomUUID() });
    const stored = await backUp(store, layers, folder.path, size);
    const expected = await guestBytes(layers.at(-1)!, folder.path);

    const top = join(root, stored.at(-1)!.file);
    expect((await guestBytes(top, folder.path)).equals(expected)).toBe(true);
    for (const each of stored) qemuImg('check', '-q', join(root, each.file));

    const chain = await chainOf(createDirectoryStore(root), stored);
    for (const file of chain) await verifyFile(pool, file, { signal });
    for (const format of ['qcow2', 'raw'] as const) {
      const path = join(folder.path, `restored.${format}`);
      await restoreDisk(pool, { chain, destination: { path, format }, virtualSizeBytes: size, signal });
      const restored = format === 'raw' ? await readFile(path) : await guestBytes(path, folder.path);
      expect(restored.equals(expected)).toBe(true);
      if (format === 'qcow2') qemuImg('check', '-q', path);
      await rm(path);
    }

    // Whichever byte of the chain is altered, the restore refuses it.
    for (const file of chain) {
      await using handle = await open(filePathOf(file.source), 'r+');
      for (let n = 0; n < 6; n += 1) {
        const offset = Math.floor(Math.random() * file.storedBytes);
        const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, offset);
        await handle.write(Buffer.from([buffer[0]! ^ 0x10]), 0, 1, offset);
        const destination = { path: join(folder.path, 'restored.raw'), format: 'raw' } as const;
        await expect(
          restoreDisk(pool, { chain, destination, virtualSizeBytes: size, signal }),
          `${file.source.blobKey}, offset ${offset}`,
        ).rejects.toMatchObject({ code: 'integrity', file: file.source.blobKey });
        await handle.write(buffer, 0, 1, offset);
      }
    }
  });
});
