import { closeSync, fsyncSync, openSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createGuest, startGuest, type Guest, type GuestDisk } from '../test/support/guest.ts';
import { startInstallation, type TestInstallation } from '../test/support/installation.ts';
import { startKvmHost, type KvmHost } from '../test/support/kvm-host.ts';
import { run } from '../test/support/run.ts';
import { tempDir } from '../test/support/temp.ts';
import { fillImage, GIB, makePatterns, type Patterns } from './disk-content.ts';

export interface BenchOptions {
  /** Where disks, repository and the peers' outputs lie: one file system that takes `O_DIRECT`. */
  folder: string;
  /** Size of the data disks; half of it holds data. */
  diskBytes: number;
  rounds: number;
  log: (line: string) => void;
}

/** A private KVM host and an installation of Holdfast on it, for all measurements of one run. */
export interface Bench extends BenchOptions, AsyncDisposable {
  host: KvmHost;
  installation: TestInstallation;
  patterns: Patterns;
  dataBytes: number;
  /** A running guest with one filled disk, of the size of the bench if none is given. */
  guest(name: string, disks?: { sizeBytes: number; dataBytes: number }[]): Promise<Guest>;
}

/** One row of the result: a median of ours beside one of a peer's, or a figure beside its limit. */
export interface Row {
  measurement: string;
  ours: string;
  peer: string;
  /** Ours to the peer's; or the figure itself. */
  figure: number;
  target: number | null;
}

export async function openBench(options: BenchOptions): Promise<Bench> {
  await using made = new AsyncDisposableStack();
  await mkdir(options.folder, { recursive: true });
  const folder = await mkdtemp(join(options.folder, 'run-'));
  made.defer(() => rm(folder, { recursive: true, force: true, maxRetries: 3 }));
  const sockets = made.use(await tempDir('hfb'));
  const host = made.use(await startKvmHost({ name: 'bench', dir: join(sockets.path, 'h') }));
  const installation = made.use(
    await startInstallation({ host, dir: join(folder, 'holdfast'), heartbeatSeconds: 60, slots: 4 }),
  );
  const patterns = makePatterns(folder);
  const dataBytes = options.diskBytes / 2;
  const owned = made.move();
  return {
    ...options,
    folder,
    host,
    installation,
    patterns,
    dataBytes,
    async guest(name, disks = [{ sizeBytes: options.diskBytes, dataBytes }]) {
      const targets: GuestDisk[] = disks.map(({ sizeBytes }, n) => ({
        target: `vd${'abcdefgh'.charAt(n)}`,
        sizeBytes,
        format: 'qcow2',
        fs: 'none',
      }));
      const guest = await createGuest(host, { name, dir: join(folder, name), disks: targets });
      for (const [n, disk] of guest.disks.entries()) await fillImage(disk.path, disks[n]!.dataBytes, patterns);
      const xml = await host.libvirt.domainXml(guest.dom, { inactive: true });
      await host.libvirt.define(xml.replaceAll("cache='none'", "cache='none' io='native'"));
      await startGuest(guest);
      return guest;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What one contender does in a round: `prepare` and `clean` are not timed. */
export interface Contender {
  prepare?: () => Promise<void>;
  act: () => Promise<void>;
  clean?: () => Promise<void>;
}

/**
 * Runs the contenders round by round, each round in the other order, and takes the time of each act until what it wrote
 * is on the disk. A first round warms up and is not counted.
 * @returns seconds by contender, one for each round
 */
export async function interleaved<Name extends string>(
  bench: Pick<Bench, 'rounds' | 'folder' | 'log'>,
  contenders: Record<Name, Contender>,
  { eachRound }: { eachRound?: () => Promise<void> } = {},
): Promise<Record<Name, number[]>> {
  const names = Object.keys(contenders) as Name[];
  const seconds = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = 0; round <= bench.rounds; round += 1) {
    await eachRound?.();
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const { prepare, act, clean } = contenders[name];
      await prepare?.();
      await durable(bench.folder);
      const start = performance.now();
      await act();
      await durable(bench.folder);
      const took = (performance.now() - start) / 1000;
      await clean?.();
      bench.log(`    round ${round}: ${name} ${took.toFixed(2)} s`);
      if (round > 0) seconds[name].push(took);
    }
  }
  return seconds;
}

/**
 * Writes out what was written to files of a folder, by whichever program; what is durable already costs nothing. Left out is
 * the installation's own state: it is durable without help, and its journals vanish between being found and being opened.
 */
const durable = async (folder: string): Promise<void> => {
  await run('find', [folder, '-path', '*/holdfast/data', '-prune', '-o', '-type', 'f', '-exec', 'sync', '{}', '+']);
};

/** Makes the next reads of files come from the disk. */
export async function forgetCached(paths: string[]): Promise<void> {
  for (const path of paths) await run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

/** As a program that cares does: the file, then the folder that names it. */
export function fsyncFile(path: string): void {
  for (const each of [path, dirname(path)]) {
    const file = openSync(each, 'r');
    fsyncSync(file);
    closeSync(file);
  }
}

/** Of a process, all its threads and the children it has waited for. Source: proc(5), /proc/pid/stat, fields 14 to 17 */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/.*\) /, '').split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100;
}

export const median = (numbers: readonly number[]): number => percentile(numbers, 0.5);

export function percentile(numbers: readonly number[], share: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const found = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  if (found === undefined) throw new Error('no samples');
  return found;
}

/** Medians of two contenders, with their least and greatest, as a row. */
export function compared(measurement: string, ours: number[], peer: number[], target: number | null): Row {
  return {
    measurement,
    ours: secondsText(ours),
    peer: secondsText(peer),
    figure: median(ours) / median(peer),
    target,
  };
}

const secondsText = (all: readonly number[]): string =>
  `${median(all).toFixed(2)} s [${Math.min(...all).toFixed(2)}-${Math.max(...all).toFixed(2)}]`;

export const gibText = (bytes: number): string => `${(bytes / GIB).toFixed(bytes < GIB ? 2 : 0)} GiB`;
