import { readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TaskBuffers } from '../../copier/thread-buffers.ts';
import { identifyFileSink, openFileSink } from '../../repository/file-sink.ts';
import { tempDir } from '../support/temp.ts';

const sinkOf = (path: string) => ({ kind: 'file', path, blobKey: 'vm/disk.qcow2' }) as const;

describe('openFileSink', () => {
  it('writes aligned and unaligned pieces in any order', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'disk');
    writeFileSync(path, '');
    const aligned = new TaskBuffers().take(8192).fill('a');
    {
      await using sink = await openFileSink(sinkOf(path));
      await sink.write(12_288, aligned);
      await sink.write(5, Buffer.from('unaligned'));
      await sink.write(4096, aligned.subarray(1, 4097)); // memory off its boundary
      await sink.write(100, aligned.subarray(0, 100));
      await sink.write(0, Buffer.alloc(0));
    }
    const bytes = readFileSync(path);
    expect(bytes.length).toBe(20_480);
    expect(bytes.toString('latin1', 5, 14)).toBe('unaligned');
    expect(bytes.toString('latin1', 100, 200)).toBe('a'.repeat(100));
    expect(bytes.toString('latin1', 4096, 8192)).toBe('a'.repeat(4096));
    expect(bytes.toString('latin1', 12_288)).toBe('a'.repeat(8192));
  });

  it('writes where the file system knows no O_DIRECT', async () => {
    const folder = await mkdtemp('/dev/shm/hf-');
    try {
      const path = join(folder, 'disk');
      writeFileSync(path, '');
      await using sink = await openFileSink(sinkOf(path));
      await sink.write(4096, new TaskBuffers().take(4096).fill('b'));
      expect(statSync(path).size).toBe(8192);
      expect(readFileSync(path, 'latin1').slice(4096)).toBe('b'.repeat(4096));
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('says that the file is gone', async () => {
    await using folder = await tempDir();
    await expect(openFileSink(sinkOf(join(folder.path, 'none')))).rejects.toMatchObject({
      name: 'BlobStoreError',
      code: 'unavailable',
      key: 'vm/disk.qcow2',
    });
  });

  it('reports a device that is full', async () => {
    await using sink = await openFileSink(sinkOf('/dev/full'));
    await expect(sink.write(0, Buffer.alloc(4096))).rejects.toMatchObject({ name: 'BlobStoreError', code: 'full' });
  });

  it('follows no symbolic link', async () => {
    await using folder = await tempDir();
    symlinkSync('/dev/null', join(folder.path, 'link'));
    await expect(openFileSink(sinkOf(join(folder.path, 'link')))).rejects.toMatchObject({ code: 'invalid-key' });
  });
});

describe('identifyFileSink', () => {
  it('stays while a file grows and differs for a new file of the same name', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'disk');
    writeFileSync(path, '');
    const before = await identifyFileSink(sinkOf(path));
    writeFileSync(path, 'more', { flag: 'a' });
    expect(await identifyFileSink(sinkOf(path))).toBe(before);
    await rm(path);
    writeFileSync(path, '');
    expect(await identifyFileSink(sinkOf(path))).not.toBe(before);
    await rm(path);
    await expect(identifyFileSink(sinkOf(path))).rejects.toMatchObject({ code: 'unavailable' });
  });
});
