import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { copyDisk } from '../copier/copy-disk.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import type { Guest } from '../test/support/guest.ts';
import { run } from '../test/support/run.ts';
import { compared, fsyncFile, interleaved, type Bench, type Row } from './harness.ts';
import { withPullExport, type PullExport } from './pull-export.ts';
import { virtnbdbackup } from './virtnbdbackup.ts';

/** Full backups stored plain and hashed: the whole command, and its copy alone. */
export const measureFull = (bench: Bench): Promise<Row[]> =>
  measure(bench, { compression: 'none', create: [], convert: [], peer: [], toConvert: 1.2, toPeer: 0.4 });

/** Full backups compressed and hashed. */
export const measureZstd = (bench: Bench): Promise<Row[]> =>
  measure(bench, {
    compression: 'zstd',
    create: ['-o', 'compression_type=zstd'],
    convert: ['-c'],
    peer: ['-z'],
    toConvert: 0.7,
    toPeer: 0.6,
  });

interface Contest {
  compression: 'none' | 'zstd';
  create: string[];
  convert: string[];
  peer: string[];
  toConvert: number;
  toPeer: number;
}

async function measure(bench: Bench, { compression, create, convert, peer, toConvert, toPeer }: Contest) {
  const { installation, folder, diskBytes } = bench;
  const ours = await bench.guest('full-ours');
  const theirs = await bench.guest('full-theirs');
  const other = virtnbdbackup(bench, theirs);
  const copied = join(folder, 'copied.qcow2');
  const converted = join(folder, 'converted.qcow2');
  const journal = join(folder, 'copied.journal');
  await using pool = new ThreadPool({ threads: 2 });
  const discard = async (): Promise<void> => {
    for (const path of [copied, journal, converted]) await rm(path, { force: true });
  };
  let exported: PullExport | undefined;
  const startExport = async (): Promise<void> => void (exported = await withPullExport(bench, ours));
  const endExport = async (): Promise<void> => {
    await exported?.[Symbol.asyncDispose]();
    await discard();
  };
  const socketPath = (): string => exported?.socketPath ?? '';
  const seconds = await interleaved(bench, {
    command: {
      act: async () => {
        await installation.take(ours.name, '--full', '--compression', compression, '--quiesce', 'none');
      },
      clean: () => discardRepositoryFiles(bench, ours),
    },
    copy: {
      prepare: startExport,
      act: async () => {
        await run('truncate', ['-s', '0', copied]);
        await copyDisk(pool, {
          source: {
            socketPath: socketPath(),
            exportName: 'vda',
            mapContext: 'base:allocation',
            virtualSizeBytes: diskBytes,
          },
          compression,
          sink: { kind: 'file', path: copied, blobKey: 'copied.qcow2' },
          journalPath: journal,
          signal: new AbortController().signal,
        });
        fsyncFile(copied);
      },
      clean: endExport,
    },
    convert: {
      prepare: startExport,
      act: async () => {
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...create, converted, String(diskBytes)]);
        const options = ['-n', ...convert, '-W', '-m', '16', '-f', 'raw', '-O', 'qcow2'];
        await run('qemu-img', ['convert', ...options, `nbd+unix:///vda?socket=${socketPath()}`, converted]);
      },
      clean: endExport,
    },
    virtnbdbackup: { act: () => other.full(...peer), clean: () => other.discard() },
  });
  const convertText = `\`qemu-img convert${convert.map((option) => ` ${option}`).join('')} -n -W -m 16\``;
  const peerText = `\`virtnbdbackup -l full${peer.map((option) => ` ${option}`).join('')}\``;
  const what = `full, ${compression === 'none' ? 'plain' : compression}`;
  return [
    compared(`${what}, copy alone, to ${convertText}`, seconds.copy, seconds.convert, toConvert),
    compared(`${what}, whole command, to ${convertText}`, seconds.command, seconds.convert, null),
    compared(`${what}, whole command, to ${peerText}`, seconds.command, seconds.virtnbdbackup, toPeer),
  ];
}

/** The files of fulls that no later backup of the measurement builds on; the catalog may keep its rows. */
export async function discardRepositoryFiles({ installation }: Bench, { uuid }: Guest): Promise<void> {
  await rm(join(installation.repositoryDir, uuid), { recursive: true, force: true });
}
