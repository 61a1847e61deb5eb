import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { MappedCluster } from '../../qcow2/tables.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import { buildImage } from './image-check.ts';

const MIB = 1024 * 1024;

/** Deterministic numbers, so that a failure can be repeated. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    yield state;
  }
}

describe('an image of encodeTables in QEMU', () => {
  it.each([
    [0, 16],
    [512, 16],
    [65_536 - 512, 16],
    [65_536, 18],
    [3 * MIB + 512, 16],
    [700 * MIB + 1024, 12],
    [2 ** 43, 16],
  ])('opens and checks for an empty disk of %i bytes, clusters of 2^%i', async (virtualSizeBytes, clusterBits) => {
    await using folder = await tempDir();
    const path = join(folder.path, 'empty.qcow2');
    await writeFile(path, buildImage({ clusterBits, virtualSizeBytes }, [], 2 ** clusterBits));
    await run('qemu-img', ['check', path]);
    const { stdout } = await run('qemu-img', ['info', '--output=json', path]);
    expect(JSON.parse(stdout.toString())).toMatchObject({
      'virtual-size': virtualSizeBytes,
      'cluster-size': 2 ** clusterBits,
    });
  });

  it.each([1, 2, 3, 4])('holds clusters of all kinds, mixed at random (seed %i)', async (seed) => {
    await using folder = await tempDir();
    const next = numbers(seed);
    const pick = (below: number) => next.next().value % below;
    const clusterBits = [12, 16, 18][pick(3)]!;
    const bytes = 2 ** clusterBits;
    const guests = 1 + pick(300);
    const virtualSizeBytes = guests * bytes - 512 * pick(bytes / 512);
    const disk = Buffer.alloc(guests * bytes);
    const clusters: MappedCluster[] = [];
    const writes: [number, Buffer][] = [];
    let at = bytes;
    for (let guest = 0; guest < guests; guest++) {
      const kind = pick(4);
      if (kind === 0) continue;
      if (kind === 1) {
        clusters.push({ kind: 'zero', guest, count: 1 });
        continue;
      }
      const content = disk.subarray(guest * bytes, (guest + 1) * bytes);
      for (let i = 0; i < bytes; i += 1 + pick(64)) content[i] = pick(256);
      if (kind === 2) {
        at = Math.ceil(at / bytes) * bytes;
        clusters.push({ kind: 'plain', guest, offset: at });
        writes.push([at, content]);
        at += bytes;
      } else {
        const frame = zstdCompressSync(content);
        if (frame.length > bytes) continue;
        at += pick(3) * 100;
        clusters.push({ kind: 'compressed', guest, offset: at, storedBytes: frame.length });
        writes.push([at, frame]);
        at += frame.length;
      }
    }
    for (let guest = 0; guest < guests; guest++) {
      if (!clusters.some((cluster) => cluster.guest === guest)) disk.fill(0, guest * bytes, (guest + 1) * bytes);
    }
    const image = buildImage({ clusterBits, virtualSizeBytes }, clusters, at, (whole) => {
      for (const [offset, content] of writes) content.copy(whole, offset);
    });
    const path = join(folder.path, 'mixed.qcow2');
    const raw = join(folder.path, 'mixed.raw');
    await writeFile(path, image);
    await writeFile(raw, disk.subarray(0, virtualSizeBytes));
    await run('qemu-img', ['check', path]);
    await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', path, raw]);
  });
});
