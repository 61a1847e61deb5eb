import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Backup } from '../schemas/backup.ts';
import { sha256OfImage } from '../test/support/disk-content.ts';
import { createGuest, findGuest, guestShell, guestWriteFile, startGuest, type Guest } from '../test/support/guest.ts';
import type { Playground } from './playground.ts';
import type { Progress } from './progress.ts';

const VM = 'web-1';
const MIB = 2 ** 20;
const NOTE = '/data/written-after-the-full.txt';

/** SHA-256 by what it is of: `disk vda`, `/data/photos.bin`. */
type Sums = ReadonlyMap<string, string>;

export interface ProvenBackup {
  backup: Backup;
  seconds: number;
  /** Disks and files that were compared. */
  compared: number;
  /** What is not as it was; empty = every byte is there. */
  differs: string[];
}

export interface Proof {
  rows: ProvenBackup[];
  isProven: boolean;
  temporalUi: string;
}

/** Two backups of a running VM, the loss of the VM, its restore from each, and the comparison of every byte. */
export async function proveBackups(playground: Playground, progress: Progress): Promise<Proof> {
  const { holdfast, host } = playground;
  const guest = await progress.step(`booting VM ${VM} with two disks, 1 GiB and 256 MiB`, () => bootGuest(playground));
  await progress.step('writing 20 MiB of files in the guest, through its agent', () => writeFirstFiles(guest));
  const filesAtFull = await sumsOfFiles(guest);
  const { temporalUi } = await progress.step('waiting until holdfast dev is ready', () => playground.ready);
  progress.say(`Temporal UI: ${temporalUi}`);

  const full = await progress.step('full backup, while it runs', () => timed(() => holdfast.takeBackup(VM)));
  await progress.step('changing files in the guest', () => changeFiles(guest));
  const filesAtIncremental = await sumsOfFiles(guest);
  const incremental = await progress.step('incremental backup, while it runs', () =>
    timed(() => holdfast.takeBackup(VM)),
  );

  await progress.step(`destroying ${VM}: its power, its definition, its disks`, () => destroyGuest(guest));
  const restored = await progress.step(`restoring ${VM} from the incremental`, () =>
    holdfast.restore(incremental.value.id),
  );
  const asName = `${VM}-at-full`;
  const older = await progress.step(`restoring the full as a second VM, ${asName}`, () =>
    holdfast.restore(full.value.id, '--as', asName),
  );
  const disks = await progress.step('comparing their disks with what qemu-img reads in the repository', async () => ({
    stored: await sumsOfStored(playground, incremental.value),
    restored: await sumsOfImages(restored.disks),
    storedAtFull: await sumsOfStored(playground, full.value),
    restoredAtFull: await sumsOfImages(older.disks),
  }));
  const [filesNow, filesThen] = await progress.step('booting both and comparing their files', () =>
    Promise.all([bootAndSum(host, VM), bootAndSum(host, asName)]),
  );

  const rows = [
    proven(full, [disks.storedAtFull, filesAtFull], [disks.restoredAtFull, filesThen]),
    proven(incremental, [disks.stored, filesAtIncremental], [disks.restored, filesNow]),
  ];
  return { rows, isProven: rows.every(({ differs }) => differs.length === 0), temporalUi };
}

async function bootGuest({ host, dir }: Playground): Promise<Guest> {
  const guest = await createGuest(host, {
    name: VM,
    dir: join(dir, 'disks'),
    disks: [
      { target: 'vda', sizeBytes: 1024 * MIB, format: 'qcow2', fs: 'ext4' },
      { target: 'vdb', sizeBytes: 256 * MIB, format: 'qcow2', fs: 'ext4' },
    ],
  });
  await startGuest(guest);
  return guest;
}

const writeFirstFiles = (guest: Guest): Promise<string> =>
  guestShell(
    guest,
    `dd if=/dev/urandom of=/data/photos.bin bs=1M count=16 2>/dev/null
     seq 1 300000 > /data/table.csv
     dd if=/dev/urandom of=/data-vdb/mail.bin bs=1M count=2 2>/dev/null
     sync`,
  );

async function changeFiles(guest: Guest): Promise<void> {
  await guestWriteFile(guest, NOTE, `written at ${new Date().toISOString()}, after the full backup\n`);
  await guestShell(
    guest,
    `dd if=/dev/urandom of=/data/photos.bin bs=64k count=16 seek=100 conv=notrunc 2>/dev/null
     echo 'one more line' >> /data/table.csv
     mv /data-vdb/mail.bin /data-vdb/mail-old.bin
     sync`,
  );
}

async function sumsOfFiles(guest: Pick<Guest, 'libvirt' | 'dom'>): Promise<Sums> {
  const listed = await guestShell(guest, 'for f in /data/* /data-vdb/*; do [ -d "$f" ] || sha256sum "$f"; done');
  return new Map(
    listed
      .trim()
      .split('\n')
      .map((line) => [line.slice(64).trim(), line.slice(0, 64)]),
  );
}

/** What the backup's qcow2 chain reads as, without Holdfast: `qemu-img` follows the backing files. */
const sumsOfStored = ({ repositoryDir }: Playground, { disks }: Backup): Promise<Sums> =>
  sumsOfImages(disks.map(({ target, file }) => ({ target, path: join(repositoryDir, file) })));

async function sumsOfImages(images: readonly { target: string; path: string }[]): Promise<Sums> {
  const sums = images.map(async ({ target, path }) => [`disk ${target}`, await sha256OfImage(path, 'qcow2')] as const);
  return new Map(await Promise.all(sums));
}

async function destroyGuest({ libvirt, dom, disks }: Guest): Promise<void> {
  await libvirt.destroy(dom);
  await libvirt.undefine(dom, { checkpointsMetadata: true });
  for (const { path } of disks) await rm(path);
}

async function bootAndSum(host: Playground['host'], name: string): Promise<Sums> {
  const guest = await findGuest(host, name);
  await startGuest(guest);
  return await sumsOfFiles(guest);
}

async function timed<T>(work: () => Promise<T>): Promise<{ value: T; seconds: number }> {
  const began = performance.now();
  const value = await work();
  return { value, seconds: (performance.now() - began) / 1000 };
}

function proven(
  taken: { value: Backup; seconds: number },
  before: readonly [disks: Sums, files: Sums],
  after: readonly [disks: Sums, files: Sums],
): ProvenBackup {
  const was = joined(before);
  const is = joined(after);
  const names = [...new Set([...was.keys(), ...is.keys()])];
  const differs = names.filter((name) => was.get(name) !== is.get(name));
  return { backup: taken.value, seconds: taken.seconds, compared: names.length, differs };
}

const joined = (sums: readonly Sums[]): Sums => new Map(sums.flatMap((some) => [...some]));
