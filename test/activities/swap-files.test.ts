import { link, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fileId, publishFile, removeFile } from '../../activities/host/publish-file.ts';
import { swapBack, swapIn } from '../../activities/host/swap-files.ts';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hf-swap-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

const at = (name: string): string => join(dir, name);
const diskWith = (changes: Partial<DiskToRestore> = {}): DiskToRestore => ({
  target: 'vda',
  chain: [{ backupId: 'b', file: 'f' }],
  virtualSizeBytes: 1,
  path: at('disk'),
  besidePath: at('disk.beside'),
  formerPath: at('disk.former'),
  format: 'qcow2',
  ...changes,
});
const put = async (files: Record<string, string>): Promise<void> => {
  for (const [name, content] of Object.entries(files)) await writeFile(at(name), content);
};
const found = async (): Promise<Record<string, string>> => {
  const names = (await readdir(dir)).toSorted();
  const contents = await Promise.all(names.map(async (name) => [name, await readFile(at(name), 'utf8')] as const));
  return Object.fromEntries(contents);
};

describe('a disk that replaces another', () => {
  const disk = () => diskWith();

  it('is swapped in and back, once or several times', async () => {
    await put({ disk: 'former', 'disk.beside': 'new' });
    const id = await fileId(at('disk.beside'));
    for (const _ of [1, 2]) {
      await swapIn(disk());
      expect(await found()).toEqual({ disk: 'new', 'disk.former': 'former' });
    }
    for (const _ of [1, 2]) {
      await swapBack(disk(), id);
      expect(await found()).toEqual({ disk: 'former' });
    }
  });

  it('is taken back when it came only half way', async () => {
    await put({ disk: 'former', 'disk.beside': 'new' });
    const id = await fileId(at('disk.beside'));
    await link(at('disk'), at('disk.former')); // killed between link and rename
    await swapBack(disk(), id);
    expect((await found())['disk']).toBe('former');
    expect(await found()).not.toHaveProperty('disk.beside');
  });

  it('is not taken back over what somebody else put there since', async () => {
    await put({ disk: 'former', 'disk.beside': 'new' });
    const id = await fileId(at('disk.beside'));
    await swapIn(disk());
    await put({ other: 'of a later restore' });
    await rename(at('other'), at('disk'));
    await swapBack(disk(), id);
    expect((await found())['disk']).toBe('of a later restore');
  });
});

describe('a disk where none was', () => {
  const disk = () => diskWith({ isNew: true });

  it('is put there and removed, once or several times', async () => {
    await put({ 'disk.beside': 'new' });
    const id = await fileId(at('disk.beside'));
    for (const _ of [1, 2]) {
      await swapIn(disk());
      expect(await found()).toEqual({ disk: 'new' });
    }
    for (const _ of [1, 2]) {
      await swapBack(disk(), id);
      expect(await found()).toEqual({});
    }
  });

  it('leaves a file alone that came there meanwhile, also in its undo', async () => {
    await put({ disk: 'of somebody else', 'disk.beside': 'new' });
    const id = await fileId(at('disk.beside'));
    await expect(swapIn(disk())).rejects.toThrow(/came into being meanwhile/);
    for (const _ of [1, 2]) {
      await swapBack(disk(), id);
      expect(await found()).toEqual({ disk: 'of somebody else' });
    }
  });
});

it('publishFile ends what was killed between name and removal', async () => {
  await put({ beside: 'new' });
  await link(at('beside'), at('disk'));
  await publishFile(at('beside'), at('disk'));
  expect(await found()).toEqual({ disk: 'new' });
});

it('removeFile removes nothing without knowing what', async () => {
  await put({ disk: 'of somebody' });
  await removeFile(at('disk'), undefined);
  await removeFile(at('disk'), '1:1');
  expect(await found()).toEqual({ disk: 'of somebody' });
});
