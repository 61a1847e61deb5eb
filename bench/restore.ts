/**
 * A verified restore of full + 3 incrementals beside `qemu-img convert` of the same chain, both durable at the end
 * (fsync of file and folder), from files that are not in the page cache (root; else as they are).
 * Interleaved, medians, ratios; bench/README.md, "Restore", has the figures.
 *
 *   node bench/restore.ts [--rounds 5] [--folder /var/tmp/holdfast-bench-restore] [--threads 2] [--only zstd,none] [--format qcow2]
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { ChainFile } from '../copier/contract.ts';
import { copyDisk } from '../copier/copy-disk.ts';
import { restoreDisk } from '../copier/restore-disk.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import { filePathOf } from '../repository/source.ts';
import { GIB, logLines, MIB, patternFile } from './disk-content.ts';
import { run } from './run-sync.ts';

const DISK_BYTES = 8 * GIB;
const INCREMENTS = 3;

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    folder: { type: 'string', default: '/var/tmp/holdfast-bench-restore' },
    threads: { type: 'string', default: '2' },
    tasks: { type: 'string', default: '2' },
    only: { type: 'string', default: 'zstd,none' },
    format: { type: 'string', default: 'qcow2' },
    peers: { type: 'string', default: 'convert,convert-W' },
  },
});
const folder = values.folder;
mkdirSync(folder, { recursive: true });
const signal = new AbortController().signal;
const pool = new ThreadPool({ threads: Number(values.threads), tasksPerThread: Number(values.tasks) });

/** A disk of 8 GiB with 4 GiB of data: 2 GiB random, 2 GiB log lines. */
function makeDisk(path: string): void {
  const random = patternFile(join(folder, 'random.bin'), 64 * MIB, () => randomBytes(MIB));
  const text = patternFile(join(folder, 'text.bin'), 64 * MIB, () => logLines(MIB));
  run('qemu-img', 'create', '-q', '-f', 'qcow2', path, String(DISK_BYTES));
  const commands: string[] = [];
  for (let at = 0; at < 2 * GIB; at += 64 * MIB) {
    commands.push('-c', `write -q -s ${random} ${at} 64M`, '-c', `write -q -s ${text} ${4 * GIB + at} 64M`);
  }
  run('qemu-io', '-f', 'qcow2', ...commands, path);
}

/** An overlay in which 400 MiB have changed, in 850 writes: 50 of 4 MiB, 800 of 256 KiB, all over the data. */
function makeOverlay(path: string, backing: string): void {
  run('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', backing, path);
  const random = patternFile(join(folder, 'changed.bin'), 4 * MIB, () => randomBytes(MIB));
  const place = (unit: number) => {
    const at = Math.floor(Math.random() * ((4 * GIB) / unit)) * unit;
    return at < 2 * GIB ? at : at + 2 * GIB;
  };
  const commands: string[] = [];
  for (let n = 0; n < 50; n += 1) commands.push('-c', `write -q -s ${random} ${place(4 * MIB)} 4M`);
  for (let n = 0; n < 800; n += 1) commands.push('-c', `write -q -s ${random} ${place(256 * 1024)} 256k`);
  run('qemu-io', '-f', 'qcow2', ...commands, path);
}

interface Served {
  image: string;
  mapContext: string;
  options: string[];
}

/** Backs up an image as the host worker does, from an NBD export. */
async function copy(
  served: Served,
  target: string,
  backing: string | undefined,
  compression: 'zstd' | 'none',
): Promise<ChainFile> {
  const socketPath = join(folder, 'nbd.sock');
  const journalPath = join(folder, 'journal');
  rmSync(socketPath, { force: true });
  rmSync(journalPath, { force: true });
  const server = spawn(
    'qemu-nbd',
    ['-r', '-t', '-e', '16', ...served.options, '-k', socketPath, '-f', 'qcow2', served.image],
    { stdio: 'ignore' },
  );
  try {
    while (!existsSync(socketPath)) await delay(20);
    writeFileSync(target, '');
    const sink = { kind: 'file', path: target, blobKey: target } as const;
    const { segments, storedBytes } = await copyDisk(pool, {
      source: { socketPath, exportName: '', mapContext: served.mapContext, virtualSizeBytes: DISK_BYTES },
      ...(backing === undefined ? {} : { backingFileName: backing }),
      compression,
      sink,
      journalPath,
      signal,
    });
    return { source: sink, storedBytes, segments };
  } finally {
    server.kill();
    await once(server, 'exit');
    rmSync(journalPath, { force: true });
  }
}

/** The chain of a disk, made once per folder and compression. */
async function chainOf(compression: 'zstd' | 'none'): Promise<ChainFile[]> {
  const described = join(folder, `chain-${compression}.json`);
  if (existsSync(described)) return JSON.parse(readFileSync(described, 'utf8')) as ChainFile[];
  const disks = Array.from({ length: INCREMENTS + 1 }, (_, n) => join(folder, `disk-${n}.qcow2`));
  if (!existsSync(join(folder, 'made'))) {
    makeDisk(disks[0]!);
    for (let n = 1; n <= INCREMENTS; n += 1) makeOverlay(disks[n]!, disks[n - 1]!);
    writeFileSync(join(folder, 'made'), '');
  }
  const chain: ChainFile[] = [];
  for (const [n, image] of disks.entries()) {
    const name = `${n === 0 ? 'full' : 'incr'}-${compression}-${n}.qcow2`;
    const served =
      n === 0
        ? { image, mapContext: 'base:allocation', options: [] }
        : { image, mapContext: 'qemu:allocation-depth', options: ['-A'] };
    const backing = n === 0 ? undefined : `${n === 1 ? 'full' : 'incr'}-${compression}-${n - 1}.qcow2`;
    chain.push(await copy(served, join(folder, name), backing, compression));
  }
  writeFileSync(`${described}.partial`, JSON.stringify(chain));
  renameSync(`${described}.partial`, described);
  return chain;
}

const output = join(folder, `restored.${values.format}`);

async function holdfast(chain: ChainFile[]): Promise<void> {
  await restoreDisk(pool, {
    chain,
    destination: { path: output, format: values.format as 'qcow2' | 'raw' },
    virtualSizeBytes: DISK_BYTES,
    signal,
  });
}

async function convert(top: string, ...options: string[]): Promise<void> {
  const child = spawn('qemu-img', ['convert', ...options, '-f', 'qcow2', '-O', values.format, top, output], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [code] = (await once(child, 'exit')) as [number];
  if (code !== 0) throw new Error(`qemu-img convert: exit code ${code}`);
  for (const path of [output, dirname(output)]) {
    const file = openSync(path, 'r');
    fsyncSync(file);
    closeSync(file);
  }
}

/** Writes out what is dirty and forgets what is clean, so that every contender reads from the disk. */
function cold(): void {
  spawnSync('sync');
  try {
    writeFileSync('/proc/sys/vm/drop_caches', '3');
  } catch {
    // not root: warm files for all
  }
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;

try {
  for (const compression of values.only.split(',') as ('zstd' | 'none')[]) {
    const chain = await chainOf(compression);
    const top = filePathOf(chain.at(-1)!.source);
    const contenders: Record<string, () => Promise<void>> = {
      holdfast: () => holdfast(chain),
      convert: () => convert(top),
      'convert-W': () => convert(top, '-W', '-m', '16'),
      'convert-direct': () => convert(top, '-W', '-m', '16', '-t', 'none', '-T', 'none'),
    };
    const names = ['holdfast', ...values.peers.split(',')];
    const seconds = Object.fromEntries(names.map((name) => [name, [] as number[]]));
    for (let round = 0; round < Number(values.rounds); round += 1) {
      for (const name of round % 2 === 0 ? names : names.toReversed()) {
        rmSync(output, { force: true });
        cold();
        const start = performance.now();
        await contenders[name]!();
        seconds[name]!.push((performance.now() - start) / 1000);
        if (round === 0 && name === 'holdfast') {
          run('qemu-img', 'compare', '-f', values.format, '-F', 'qcow2', output, top);
          if (values.format === 'qcow2') run('qemu-img', 'check', '-q', output);
        }
      }
    }
    const stored = chain.reduce((sum, file) => sum + file.storedBytes, 0);
    const digest = createHash('sha256').update(JSON.stringify(chain)).digest('hex').slice(0, 8);
    console.log(
      `${compression}: chain ${digest}, ${(stored / MIB).toFixed(0)} MiB stored, restored ${(statSync(output).blocks / 2048).toFixed(0)} MiB as ${values.format}`,
    );
    for (const name of names) {
      console.log(
        `  ${name.padEnd(14)} ${median(seconds[name]!).toFixed(2)} s [${seconds[name]!.map((each) => each.toFixed(2)).join(' ')}]`,
      );
    }
    const best = Math.min(...names.slice(1).map((name) => median(seconds[name]!)));
    console.log(`  ratio to the best of qemu-img: ${(median(seconds.holdfast!) / best).toFixed(2)}`);
  }
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  console.log(
    `CPU of this process ${((userCPUTime + systemCPUTime) / 1e6).toFixed(1)} s, peak RSS ${(maxRSS / 1024).toFixed(0)} MiB`,
  );
} finally {
  await pool[Symbol.asyncDispose]();
  rmSync(output, { force: true });
}
