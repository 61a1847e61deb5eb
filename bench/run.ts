/**
 * Holdfast beside its peers, from begin to end, on a private KVM host. bench/README.md tells the method and the figures.
 *
 *   npm run bench -- [--gib 8] [--rounds 5] [--only full,zstd,incremental,restore,latency,memory,memory-s3,sparse] [--folder DIR]
 *
 * Needs root, the packages of scripts/setup, and virtnbdbackup (apt).
 */
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { GIB } from './disk-content.ts';
import { openBench, type Bench, type Row } from './harness.ts';
import { measureFull, measureZstd } from './measure-full.ts';
import { measureIncremental } from './measure-incremental.ts';
import { measureLatency } from './measure-latency.ts';
import { measureMemory, measureMemoryS3 } from './measure-memory.ts';
import { measureRestore } from './measure-restore.ts';
import { measureSparse } from './measure-sparse.ts';

const MEASUREMENTS: Record<string, (bench: Bench) => Promise<Row[]>> = {
  full: measureFull,
  zstd: measureZstd,
  incremental: measureIncremental,
  restore: measureRestore,
  latency: measureLatency,
  memory: measureMemory,
  'memory-s3': measureMemoryS3,
  sparse: measureSparse,
};

const { values } = parseArgs({
  options: {
    gib: { type: 'string', default: '8' },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: Object.keys(MEASUREMENTS).join(',') },
    folder: { type: 'string', default: '/var/tmp/holdfast-bench' },
  },
});
const log = (line: string): void => void process.stderr.write(`${line}\n`);
const wanted = values.only.split(',');
const unknown = wanted.find((name) => MEASUREMENTS[name] === undefined);
if (unknown !== undefined) throw new Error(`--only ${unknown}: choose from ${Object.keys(MEASUREMENTS).join(', ')}`);
for (const tool of ['virtnbdbackup', 'qemu-img', 'libvirtd']) {
  if (spawnSync(tool, ['--version']).error !== undefined)
    throw new Error(`${tool} is missing: apt-get install it first`);
}

let current: Bench | undefined;
const stop = async (): Promise<never> => {
  await current?.[Symbol.asyncDispose]();
  process.exit(1);
};
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop());

const rows: Row[] = [];
for (const name of wanted) {
  log(`${name}:`);
  // A bench of its own for each: no measurement inherits another's catalog, memory or full disk.
  await using bench = await openBench({
    folder: values.folder,
    diskBytes: Number(values.gib) * GIB,
    rounds: Number(values.rounds),
    log,
  });
  current = bench;
  const found = (await MEASUREMENTS[name]?.(bench)) ?? [];
  for (const row of found) log(`  ${lineOf(row)}`);
  rows.push(...found);
}
console.log(['| measurement | Holdfast | beside it | figure | target | |', '|---|---|---|---|---|---|'].join('\n'));
for (const row of rows) console.log(lineOf(row));

function lineOf({ measurement, ours, peer, figure, target }: Row): string {
  const verdict = target === null ? '' : figure <= target ? 'met' : 'missed';
  return `| ${measurement} | ${ours} | ${peer} | ${figure.toFixed(2)} | ${target?.toString() ?? ''} | ${verdict} |`;
}
