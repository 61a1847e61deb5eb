import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { rewriteKey, rewriterOf, sumsKey } from '../../repository/layout.ts';
import { createManifest, listManifests, readManifest, readStoredManifest } from '../../repository/manifest.ts';
import { readSums, writeSums } from '../../repository/sums.ts';
import { finishSwap, swapFiles, type RewrittenDisk } from '../../repository/swap-files.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const VM = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const BACKUP = '00000000-0000-4000-8000-000000000001';
const PARENT = '00000000-0000-4000-8000-000000000002';
const OPERATION = '00000000-0000-4000-8000-00000000000a';
const OTHER_OPERATION = '00000000-0000-4000-8000-00000000000b';
const WHOSE = { vmUuid: VM, backupId: BACKUP };

/** Hundreds of swaps, each synced many times: in memory, where there is such a place. */
const FOLDER = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

let root: string;
let store: BlobStore;
beforeEach(async () => {
  root = await mkdtemp(join(FOLDER, 'holdfast-swap-'));
  store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function upload(key: string, content: Buffer): Promise<void> {
  await store.putBlob(key, content, { replace: true });
}

const sumOf = (content: Buffer) => ({
  offset: 0,
  lengthBytes: content.length,
  sha256: createHash('sha256').update(content).digest('hex'),
});

/** Stores a disk's file with its sums. */
async function stored(
  number: number,
  key: string,
  content: string,
  over: Partial<ManifestDisk>,
): Promise<ManifestDisk> {
  const bytes = Buffer.from(content);
  await upload(key, bytes);
  return {
    ...manifestOf(BACKUP).disks[0]!,
    target: `vd${'abc'[number]}`,
    number,
    file: key,
    storedBytes: bytes.length,
    sums: await writeSums(store, key, [sumOf(bytes)]),
    ...over,
  };
}

/** An increment of two disks, and of each the file that is to take its place: shorter, or a full. */
async function prepare(kind: 'compress' | 'merge', operation = OPERATION) {
  const disks: ManifestDisk[] = [];
  const rewritten: RewrittenDisk[] = [];
  for (const number of [0, 1]) {
    const file = `${VM}/disk-${number}/incr-20261121-120000.qcow2`;
    const backingFile = `${VM}/disk-${number}/full-20261120-120000.qcow2`;
    await upload(backingFile, Buffer.from('the full beneath'));
    const disk = await stored(number, file, `former content ${number}`, { type: 'incremental', backingFile });
    disks.push(disk);
    rewritten.push(await rewriting(disk, kind, operation));
  }
  const manifest: Manifest = { ...manifestOf(BACKUP), type: 'incremental', parentId: PARENT, position: 2, disks };
  await createManifest(store, manifest);
  return { manifest, rewritten };
}

async function rewriting(disk: ManifestDisk, kind: 'compress' | 'merge', operation: string): Promise<RewrittenDisk> {
  const content = Buffer.from(
    kind === 'compress' ? `new ${disk.number}` : `new and much longer content ${disk.number}`,
  );
  const temporary = rewriteKey(disk.file, operation);
  await upload(temporary, content);
  const sums = await writeSums(store, temporary, [sumOf(content)]);
  const asFull = kind === 'merge' ? { type: 'full' as const, fullReason: 'merged' as const, backingFile: null } : {};
  const replacement = {
    ...disk,
    ...asFull,
    storedBytes: content.length,
    sums,
    temporary,
    compression: 'zstd' as const,
  };
  return { formerSums: disk.sums.sha256, replacement };
}

/** A store that fails for good at its nth change, before or after it has come about: as a killed process would. */
function crashingAt(nth: number, when: 'before' | 'after'): { store: BlobStore; changes: () => number } {
  let changes = 0;
  const crash = <A extends unknown[]>(change: (...parameters: A) => Promise<void>) => {
    return async (...parameters: A): Promise<void> => {
      changes += 1;
      if (changes > nth || (changes === nth && when === 'before')) throw new Error('killed');
      await change(...parameters);
      if (changes === nth) throw new Error('killed');
    };
  };
  return {
    store: {
      ...store,
      putBlob: crash((...parameters) => store.putBlob(...parameters)),
      moveBlob: crash((...parameters) => store.moveBlob(...parameters)),
      deleteBlob: crash((...parameters) => store.deleteBlob(...parameters)),
    },
    changes: () => changes,
  };
}

/** What a reader does with a backup: each file that its manifest names is there, and is what its sums say. */
async function expectReadable(): Promise<Manifest> {
  const manifest = await readManifest(store, VM, BACKUP);
  for (const disk of manifest.disks) {
    expect(disk.replacement).toBeUndefined();
    const content = await store.getBlob(disk.file);
    expect(content.length).toBe(disk.storedBytes);
    expect(await readSums(store, disk)).toEqual([sumOf(content)]);
    if (disk.backingFile !== null) expect(await store.statBlob(disk.backingFile)).toBeDefined();
  }
  expect(manifest.type).toBe(manifest.disks.some(({ backingFile }) => backingFile !== null) ? 'incremental' : 'full');
  if (manifest.disks.some(({ backingFile }) => backingFile !== null)) expect(manifest.parentId).toBe(PARENT);
  const listed = await Array.fromAsync(listManifests(store, VM));
  expect(listed.map((each) => each.manifest)).toEqual([manifest]);
  return manifest;
}

const temporaries = async (): Promise<string[]> =>
  (await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key).filter((key) => rewriterOf(key) !== undefined);

describe.each(['compress', 'merge'] as const)('swapping files: %s', (kind) => {
  const expectSwapped = async (left: RegExp = /^$/): Promise<void> => {
    const manifest = await readStoredManifest(store, VM, BACKUP);
    expect(await expectReadable()).toEqual(manifest);
    expect(manifest).toMatchObject(
      kind === 'merge' ? { type: 'full', parentId: null } : { type: 'incremental', parentId: PARENT },
    );
    expect(manifest.compression).toBe('zstd');
    for (const disk of manifest.disks) {
      expect((await store.getBlob(disk.file)).toString()).toMatch(/^new/);
      expect(disk.sums.file).toBe(sumsKey(disk.file));
    }
    expect((await temporaries()).filter((key) => !left.test(key))).toEqual([]);
  };

  it('puts the new files in their places and says so in the manifest', async () => {
    const { manifest, rewritten } = await prepare(kind);
    const swapped = await swapFiles(store, WHOSE, rewritten);
    await expectSwapped();
    expect(swapped).toMatchObject({ id: manifest.id, instant: manifest.instant, position: 2 });
    expect(await swapFiles(store, WHOSE, rewritten), 'an attempt whose answer was lost').toEqual(swapped);
    expect(await finishSwap(store, WHOSE)).toEqual(swapped);
  });

  it('can be cut off at any instant: every reader finds one or the other whole, and it can be brought to its end', async () => {
    const { store: counting, changes } = crashingAt(Infinity, 'before');
    const counted = await prepare(kind);
    await swapFiles(counting, WHOSE, counted.rewritten);
    expect(changes()).toBeGreaterThan(7);
    for (let nth = 1; nth <= changes(); nth += 1) {
      for (const when of ['before', 'after'] as const) {
        for (const next of ['again', 'finish'] as const) {
          await rm(join(root, VM), { recursive: true });
          const { rewritten } = await prepare(kind);
          await expect(swapFiles(crashingAt(nth, when).store, WHOSE, rewritten)).rejects.toThrow('killed');
          await expectReadable();
          // whoever comes next: the same operation, or somebody who only knows the repository
          if (next === 'again') {
            await swapFiles(store, WHOSE, rewritten);
            await expectSwapped();
          } else {
            await finishSwap(store, WHOSE);
            const { compression } = await expectReadable();
            if (nth === 1 && when === 'before') expect(compression).toBe('none');
            else await expectSwapped(/\.sums$/); // some lines of text, whose owner comes for them
          }
        }
      }
    }
  });

  it('can be cut off once more while it is brought to its end', async () => {
    for (let first = 1; first <= 6; first += 1) {
      for (let second = 1; second <= 6; second += 1) {
        await rm(join(root, VM), { recursive: true, force: true });
        const { rewritten } = await prepare(kind);
        await swapFiles(crashingAt(first, 'after').store, WHOSE, rewritten).catch(() => undefined);
        await finishSwap(crashingAt(second, 'after').store, WHOSE).catch(() => undefined);
        await expectReadable();
        await swapFiles(store, WHOSE, rewritten);
        await expectSwapped();
      }
    }
  });

  it('leaves a disk whose new file got lost as it was', async () => {
    const { rewritten } = await prepare(kind);
    await swapFiles(crashingAt(1, 'after').store, WHOSE, rewritten).catch(() => undefined);
    await store.deleteBlob(rewritten[1]!.replacement.temporary);
    const finished = await finishSwap(store, WHOSE);
    expect(await expectReadable()).toEqual(finished);
    expect(finished.disks.map(({ storedBytes }) => storedBytes)).toEqual([
      rewritten[0]!.replacement.storedBytes,
      'former content 1'.length,
    ]);
    expect(finished.type).toBe('incremental');
  });
});

describe('swapping files', () => {
  it('finishes what another operation began, and refuses to undo it with something older', async () => {
    const { manifest, rewritten } = await prepare('compress');
    await swapFiles(crashingAt(2, 'after').store, WHOSE, rewritten).catch(() => undefined);
    const late = await Promise.all(manifest.disks.map((disk) => rewriting(disk, 'merge', OTHER_OPERATION)));
    await expect(swapFiles(store, WHOSE, late)).rejects.toThrow(/is another file than the one that was read/);
    const present = await expectReadable();
    expect(present).toMatchObject({ type: 'incremental', compression: 'zstd' });
  });

  it('refuses a new file that is not whole, or as long as the former one, and touches nothing', async () => {
    const { manifest, rewritten } = await prepare('compress');
    const [first] = rewritten;
    await upload(first!.replacement.temporary, Buffer.from('cut'));
    await expect(swapFiles(store, WHOSE, rewritten)).rejects.toThrow(/has 3 bytes, not 5/);
    const { replacement } = first!;
    const same = { ...first!, replacement: { ...replacement, storedBytes: manifest.disks[0]!.storedBytes } };
    await expect(swapFiles(store, WHOSE, [same])).rejects.toThrow(/has the length of the file/);
    expect(await expectReadable()).toEqual(manifest);
  });

  it('moves and removes nothing but what a rewriting made, whatever a manifest says', async () => {
    const { manifest, rewritten } = await prepare('compress');
    const hostile = { ...rewritten[0]!.replacement, temporary: 'repository.json' };
    const [first, ...others] = manifest.disks;
    await store.putBlob(
      `${VM}/backups/${BACKUP}.json`,
      Buffer.from(JSON.stringify({ ...manifest, disks: [{ ...first, replacement: hostile }, ...others] })),
      { replace: true },
    );
    await expect(finishSwap(store, WHOSE)).rejects.toThrow(/cannot be replaced by repository.json/);
    expect(await store.statBlob('repository.json')).toBeDefined();
  });
});
