/**
 * The copier beside `qemu-img convert`, both reading the same NBD export and both durable at the end (fsync).
 * Interleaved, medians, ratios; bench/README.md, "Copier", has the figures.
 *
 *   node bench/copier.ts [--rounds 5] [--folder /var/tmp/holdfast-bench] [--gib 8] [--threads 2] [--direct] [--only plain,zstd]
 *
 * The export comes from the page cache, or, with --direct, from the disk, as from a guest's QEMU with cache='none'.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { copyDisk } from '../copier/copy-disk.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import { GIB, makePatterns, MIB } from './disk-content.ts';
import { run } from './run-sync.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    folder: { type: 'string', default: '/var/tmp/holdfast-bench' },
    threads: { type: 'string', default: '2' },
    tasks: { type: 'string', default: '2' },
    gib: { type: 'string', default: '8' },
    direct: { type: 'boolean', default: false },
    only: { type: 'string', default: 'plain,zstd' },
  },
});
const folder = values.folder;
/** Size of the disk; half of it is data. */
const DISK_BYTES = Number(values.gib) * GIB;
mkdirSync(folder, { recursive: true });

/** A disk half full: of its eighths 2 are random, 1 is log lines, half a one zeroes written out, half a one a text page in 16. */
function makeDisk(path: string): void {
  if (existsSync(path)) return;
  const partial = `${path}.partial`;
  const blockBytes = 64 * MIB;
  const { random, text, sparse } = makePatterns(folder);
  run('qemu-img', 'create', '-q', '-f', 'qcow2', partial, String(DISK_BYTES));
  const commands: string[] = [];
  const fill = (what: string, offset: number, lengthBytes: number) => {
    for (let at = offset; at < offset + lengthBytes; at += blockBytes)
      commands.push('-c', `write -q ${what} ${at} ${blockBytes}`);
  };
  const eighth = DISK_BYTES / 8;
  fill(`-s ${random}`, 0, 2 * eighth);
  fill(`-s ${text}`, 3 * eighth, eighth);
  fill('-P 0', 5 * eighth, eighth / 2);
  fill(`-s ${sparse}`, 7 * eighth, eighth / 2);
  run('qemu-io', '-f', 'qcow2', ...commands, partial);
  run('mv', partial, path);
}

interface Cost {
  seconds: number;
  /** Processor time of the program. */
  clientCpu: number;
  /** Processor time of qemu-nbd, which serves both sides. */
  serverCpu: number;
}

async function measured(act: () => Promise<unknown>): Promise<Cost> {
  spawnSync('sync');
  const start = performance.now();
  const clientBefore = cpuSeconds(process.pid);
  const serverBefore = cpuSeconds(server.pid!);
  await act();
  return {
    seconds: (performance.now() - start) / 1000,
    clientCpu: cpuSeconds(process.pid) - clientBefore,
    serverCpu: cpuSeconds(server.pid!) - serverBefore,
  };
}

/** Of a process, all its threads and the children it has waited for. Source: proc(5), /proc/pid/stat, fields 14 to 17 */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/.*\) /, '').split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100;
}

function fsyncFile(path: string): void {
  const file = openSync(path, 'r+');
  fsyncSync(file);
  closeSync(file);
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;

const disk = join(folder, `disk-${values.gib}.qcow2`);
makeDisk(disk);
const socketPath = join(folder, 'nbd.sock');
rmSync(socketPath, { force: true });
const cache = values.direct ? ['--cache=none', '--aio=native'] : [];
const server = spawn('qemu-nbd', ['-r', '-t', '-e', '16', ...cache, '-k', socketPath, '-f', 'qcow2', disk], {
  stdio: 'ignore',
});
while (!existsSync(socketPath)) await delay(20);
const uri = `nbd+unix:///?socket=${socketPath}`;
const output = join(folder, 'out.qcow2');
const journalPath = join(folder, 'journal');
const pool = new ThreadPool({ threads: Number(values.threads), tasksPerThread: Number(values.tasks) });

async function holdfast(compression: 'none' | 'zstd'): Promise<void> {
  const source = { socketPath, exportName: '', mapContext: 'base:allocation', virtualSizeBytes: DISK_BYTES };
  const sink = { kind: 'file', path: output, blobKey: 'out.qcow2' } as const;
  await copyDisk(pool, { source, compression, sink, journalPath, signal: new AbortController().signal });
  fsyncFile(output);
}

async function convert(...options: string[]): Promise<void> {
  const child = spawn(
    'qemu-img',
    ['convert', '-n', ...options, '-W', '-m', '16', '-f', 'raw', '-O', 'qcow2', uri, output],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  await once(child, 'exit');
  fsyncFile(output);
}

const contests = {
  plain: {
    ours: () => holdfast('none'),
    theirs: () => convert(),
    create: [],
  },
  zstd: {
    ours: () => holdfast('zstd'),
    theirs: () => convert('-c'),
    create: ['-o', 'compression_type=zstd'],
  },
};

try {
  for (const [name, { ours, theirs, create }] of Object.entries(contests)) {
    if (!values.only.split(',').includes(name)) continue;
    const costs: { ours: Cost[]; theirs: Cost[] } = { ours: [], theirs: [] };
    const stored = { ours: 0, theirs: 0 };
    for (let round = 0; round <= Number(values.rounds); round++) {
      for (const who of round % 2 === 0 ? (['ours', 'theirs'] as const) : (['theirs', 'ours'] as const)) {
        rmSync(output, { force: true });
        rmSync(journalPath, { force: true });
        if (who === 'ours') writeFileSync(output, '');
        else run('qemu-img', 'create', '-q', '-f', 'qcow2', ...create, output, String(DISK_BYTES));
        const cost = await measured(who === 'ours' ? ours : theirs);
        stored[who] = statSync(output).blocks / 2048;
        if (round > 0) costs[who].push(cost); // the first round warms caches
      }
    }
    for (const who of ['ours', 'theirs'] as const) {
      const all = costs[who];
      const of = (key: keyof Cost) => median(all.map((cost) => cost[key])).toFixed(2);
      const each = all.map(({ seconds }) => seconds.toFixed(2)).join(' ');
      console.log(
        `${name} ${who}: ${of('seconds')} s [${each}], CPU ${of('clientCpu')} + ${of('serverCpu')} s, ${stored[who].toFixed(0)} MiB`,
      );
    }
    const ratio = (cost: (one: Cost) => number) =>
      (median(costs.ours.map(cost)) / median(costs.theirs.map(cost))).toFixed(2);
    console.log(
      `${name}: time ${ratio((c) => c.seconds)}, CPU ${ratio((c) => c.clientCpu + c.serverCpu)} of qemu-img's`,
    );
  }
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage();
  console.log(
    `CPU ${((userCPUTime + systemCPUTime) / 1e6).toFixed(1)} s in all, peak RSS ${(maxRSS / 1024).toFixed(0)} MiB`,
  );
} finally {
  await pool[Symbol.asyncDispose]();
  server.kill();
  await once(server, 'exit');
  for (const path of [output, journalPath]) rmSync(path, { force: true });
}
