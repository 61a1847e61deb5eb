import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { CompressedBackup } from '../../workflows/compress-backup.ts';
import type { Guest } from '../support/guest.ts';
import { run } from '../support/run.ts';
import { expectStored, manifestOf, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

describe('compressing stored backups', () => {
  let bed: TestBed;
  let guest: Guest;
  const vda = new PatternedDisk(0, 64 * MiB);
  /** What each backup must hold. */
  const contents: { backup: Backup; sha256: string }[] = [];

  const take = async (): Promise<Backup> => {
    const backup = await bed.take('packed', { compression: 'none' });
    contents.push({ backup, sha256: vda.sha256 });
    return backup;
  };
  beforeAll(async () => {
    bed = await startTestBed('kvm-compress');
    guest = await bed.guest({
      name: 'packed',
      disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 24 * MiB, 0x21);
    await take();
    await vda.write(guest, 4 * MiB, 2 * MiB, 0x22);
    await take();
    await vda.write(guest, 5 * MiB, 8 * MiB, 0x23);
    await take();
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const shown = (id: string): Promise<Backup & { rewriteFailure?: string }> => bed.holdfast.json('backup', 'show', id);
  const compress = (id: string): Promise<CompressedBackup> => bed.holdfast.json('backup', 'compress', id);
  /** Every backup taken so far, as its files lie there, is what it was. */
  const expectAllStored = async (): Promise<void> => {
    for (const { backup, sha256 } of contents)
      await expectStored(bed.holdfast, await shown(backup.id), { vda: { sha256 } });
  };
  const strayFiles = async (): Promise<string[]> => {
    const { stdout } = await run('find', [bed.holdfast.repositoryDir, '-name', '*rewrite*', '-printf', '%P\n']);
    return stdout.toString().split('\n').filter(Boolean);
  };

  it('compresses the middle of a chain by hand: fewer bytes, the same content, the children stay right', async () => {
    const [, middle] = contents;
    const before = await shown(middle!.backup.id);
    expect(before.compression).toBe('None');
    const compressed = await compress(middle!.backup.id);
    expect(compressed).toMatchObject({
      id: middle!.backup.id,
      state: 'BackedUp',
      type: 'incremental',
      compression: 'Compressed',
      compressionResult: { outcome: 'compressed', beforeBytes: before.storedBytes, afterBytes: compressed.storedBytes },
    });
    expect(compressed.storedBytes).toBeLessThan(before.storedBytes / 2);
    expect(compressed.disks[0]).toMatchObject({ ...before.disks[0], storedBytes: compressed.storedBytes });
    const manifest = await manifestOf(bed.holdfast, compressed);
    expect(manifest.compression).toBe('zstd');
    expect(manifest.disks[0]).toMatchObject({ file: before.disks[0]!.file, storedBytes: compressed.storedBytes });
    expect(manifest.disks[0]).not.toHaveProperty('replacement');
    expect((await readFile(bed.holdfast.blob(before.disks[0]!.file))).length).toBe(compressed.storedBytes);
    await expectAllStored();
    expect(await strayFiles()).toEqual([]);
  });

  it('says so when it is compressed already, and does nothing', async () => {
    const [, middle] = contents;
    const before = await shown(middle!.backup.id);
    const again = await compress(middle!.backup.id);
    expect(again.compressionResult).toEqual({
      outcome: 'already-compressed',
      beforeBytes: before.storedBytes,
      afterBytes: before.storedBytes,
    });
    expect(await shown(middle!.backup.id)).toEqual(before);
  });

  it('compresses the newest and the full too, and the next backup is an increment on them', async () => {
    await compress(contents[2]!.backup.id);
    await compress(contents[0]!.backup.id);
    await expectAllStored();
    await vda.write(guest, 40 * MiB, MiB, 0x24);
    expect((await take()).type).toBe('incremental');
    await expectAllStored();
    expect(await strayFiles()).toEqual([]);
  });

  it('restores what was compressed', async () => {
    for (const [index, { backup, sha256 }] of contents.entries()) {
      const { disks } = await bed.restore(backup.id, { as: `restored-${index}` });
      const raw = join(bed.dir, 'restored.raw');
      await run('qemu-img', ['convert', '-O', 'raw', disks[0]!.path, raw]);
      const { stdout } = await run('sha256sum', [raw]);
      expect(stdout.toString().slice(0, 64)).toBe(sha256);
    }
  });
});
