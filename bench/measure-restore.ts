import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { restoreDisk } from '../copier/restore-disk.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { readSums } from '../repository/sums.ts';
import { readManifest } from '../repository/manifest.ts';
import type { Backup } from '../schemas/backup.ts';
import { run } from '../test/support/run.ts';
import { applyChange, changePattern, planChange } from './disk-content.ts';
import { compared, forgetCached, interleaved, type Bench, type Row } from './harness.ts';
import { virtnbdbackup } from './virtnbdbackup.ts';

const INCREMENTS = 3;

/** A verified restore of a full and three increments beside `qemu-img convert` of the same files, read from the disk. */
export async function measureRestore(bench: Bench): Promise<Row[]> {
  const { installation, folder, diskBytes, dataBytes, host } = bench;
  const ours = await bench.guest('restore-ours');
  const theirs = await bench.guest('restore-theirs');
  const peer = virtnbdbackup(bench, theirs);
  const plain = ['--compression', 'none', '--quiesce', 'none', '--chain-size', '0'];
  const backups: Backup[] = [await installation.take(ours.name, '--full', ...plain)];
  await peer.full();
  for (let n = 0; n < INCREMENTS; n += 1) {
    const change = planChange(dataBytes);
    const pattern = changePattern(join(folder, 'change.bin'));
    await applyChange(ours, change, pattern);
    await applyChange(theirs, change, pattern);
    backups.push(await installation.take(ours.name, ...plain));
    await peer.inc();
  }
  const newest = backups.at(-1)!;
  const store = openBlobStore({ kind: 'directory', path: installation.repositoryDir });
  const chain = await Promise.all(
    backups.map(async ({ id, vm, disks }) => {
      const stored = (await readManifest(store, vm.uuid, id)).disks[0]!;
      const segments = await readSums(store, stored);
      return { source: store.source(disks[0]!.file), storedBytes: stored.storedBytes, segments };
    }),
  );
  const files = backups.map(({ disks }) => installation.blob(disks[0]!.file));
  const top = files.at(-1)!;
  const output = join(folder, 'restored.qcow2');
  const peerOutput = join(folder, 'virtnbdrestore');
  await using pool = new ThreadPool({ threads: 2 });
  const prepare = (): Promise<void> => forgetCached(files);
  const clean = (): Promise<void> => rm(output, { force: true });
  let restored = '';
  const seconds = await interleaved(bench, {
    command: {
      prepare,
      act: async () => {
        const { disks } = await installation.restore(newest.id, '--as', 'restored');
        restored = disks[0]!.path;
      },
      clean: async () => {
        await run('qemu-img', ['compare', '-q', restored, top]);
        await host.libvirt.undefine((await host.libvirt.lookupByName('restored'))!);
        await rm(restored);
      },
    },
    restoreDisk: {
      prepare,
      act: async () => {
        await restoreDisk(pool, {
          chain,
          destination: { path: output, format: 'qcow2' },
          virtualSizeBytes: diskBytes,
          signal: new AbortController().signal,
        });
      },
      clean,
    },
    convert: {
      prepare,
      act: async () => {
        await run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'qcow2', top, output]);
      },
      clean,
    },
    'convert -W -m 16': {
      prepare,
      act: async () => {
        await run('qemu-img', ['convert', '-W', '-m', '16', '-f', 'qcow2', '-O', 'qcow2', top, output]);
      },
      clean,
    },
    virtnbdrestore: {
      prepare: async () => {
        await mkdir(peerOutput);
        await forgetCached([...(await peer.files())]);
      },
      act: () => peer.restore(peerOutput),
      clean: () => rm(peerOutput, { recursive: true }),
    },
  });
  const what = `restore of full + ${INCREMENTS}, verified`;
  return [
    compared(`${what}, copy alone, to \`qemu-img convert\``, seconds.restoreDisk, seconds.convert, 1.2),
    compared(
      `${what}, copy alone, to \`qemu-img convert -W -m 16\``,
      seconds.restoreDisk,
      seconds['convert -W -m 16'],
      1.2,
    ),
    compared(`${what}, whole command, to \`qemu-img convert\``, seconds.command, seconds.convert, null),
    compared(`${what}, whole command, to \`virtnbdrestore\``, seconds.command, seconds.virtnbdrestore, null),
  ];
}
