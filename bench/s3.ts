/**
 * The copier to and from an S3 server on this machine (versitygw), beside the least that an S3 client can do with the same bytes.
 * Interleaved, medians, ratios; bench/README.md, "S3", has the figures.
 *
 *   node bench/s3.ts [--rounds 3] [--gib 8] [--folder DIR] [--only upload,latency,download,restore,incremental,memory,sealed]
 *     [--compression zstd,none]
 *
 * The disk is exported by qemu-nbd, past the page cache; half of it holds data.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import type { CopyDiskOptions, CopyResult } from '../copier/contract.ts';
import { createCopierPool } from '../copier/pool.ts';
import { SEGMENT_BYTES } from '../copier/thread-task.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { openSource } from '../repository/source.ts';
import { startFaultProxy } from '../test/support/fault-proxy.ts';
import { run } from '../test/support/run.ts';
import { startS3Server } from '../test/support/s3-server.ts';
import { changePattern, fillImage, GIB, makePatterns, MIB, planChange } from './disk-content.ts';
import { cpuSeconds, fsyncFile, median } from './harness.ts';
import { plainS3 } from './plain-s3.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    gib: { type: 'string', default: '8' },
    folder: { type: 'string', default: '/var/tmp/holdfast-bench-s3' },
    only: { type: 'string', default: 'upload,latency,download,restore,incremental,memory,sealed' },
    compression: { type: 'string', default: 'zstd,none' },
  },
});
const folder = values.folder;
const rounds = Number(values.rounds);
const diskBytes = Number(values.gib) * GIB;
const compressions = (['zstd', 'none'] as const).filter((each) => values.compression.split(',').includes(each));
const { signal } = new AbortController();
mkdirSync(folder, { recursive: true });

const disk = join(folder, `disk-${values.gib}.qcow2`);
const overlay = join(folder, 'overlay.qcow2');
const patterns = makePatterns(folder);
if (!existsSync(disk)) {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', disk, String(diskBytes)]);
  await fillImage(disk, diskBytes / 2, patterns);
}
const server = await startS3Server('versitygw');
const place = await server.newPlace('bench');
const store = openBlobStore(place);
const peer = plainS3(place, server.keys);
const proxy = await startFaultProxy({ port: server.port });
const far = openBlobStore({ ...place, endpoint: proxy.endpoint });
const pool = createCopierPool();
const exports: { socketPath: string; end: () => Promise<void> }[] = [];

async function exported(image: string, ...options: string[]): Promise<string> {
  const socketPath = join(folder, `nbd-${exports.length}.sock`);
  rmSync(socketPath, { force: true });
  const qemu = spawn(
    'qemu-nbd',
    ['-r', '-t', '-e', '16', '--cache=none', '--aio=native', ...options, '-k', socketPath, '-f', 'qcow2', image],
    { stdio: 'ignore' },
  );
  const end = async (): Promise<void> => {
    qemu.kill();
    await once(qemu, 'exit');
  };
  exports.push({ socketPath, end });
  while (!existsSync(socketPath)) await delay(20);
  await delay(100);
  return socketPath;
}

let copies = 0;
type Wanted = Pick<CopyDiskOptions, 'compression'> &
  Partial<CopyDiskOptions> & { socketPath: string; mapContext?: string };
const optionsOf = ({ socketPath, mapContext = 'base:allocation', ...rest }: Wanted) => ({
  source: { socketPath, exportName: '', mapContext, virtualSizeBytes: diskBytes },
  journalPath: join(folder, `journal-${++copies}`),
  signal,
  ...rest,
});

async function toBucket(wanted: Wanted, into = store): Promise<{ key: string; result: CopyResult }> {
  const key = `vm/copy-${copies}.qcow2`;
  const upload = await into.createUpload(key, { expectedBytes: 0 });
  const options = optionsOf(wanted);
  const result = await pool.copyDisk({ ...options, sink: upload.sink });
  await upload.finish(result.storedBytes);
  rmSync(options.journalPath);
  return { key, result };
}

async function toDirectory(wanted: Wanted): Promise<undefined> {
  await toFile(wanted, 'out.qcow2');
}

async function toFile(wanted: Wanted, name: string): Promise<{ path: string; result: CopyResult }> {
  const path = join(folder, name);
  writeFileSync(path, '');
  const options = optionsOf(wanted);
  const result = await pool.copyDisk({ ...options, sink: { kind: 'file', path, blobKey: name } });
  fsyncFile(path);
  rmSync(options.journalPath);
  return { path, result };
}

interface Cost {
  seconds: number;
  client: number;
  server: number;
}

/** What a contender does; it returns the key of what it stored, to be removed when the clock has stopped. */
type Act = () => Promise<string | undefined>;

/** Each act round by round, in turns; the first round warms up. What was written is on the disk when the clock stops. */
async function contest<Name extends string>(acts: Record<Name, Act>): Promise<Record<Name, Cost[]>> {
  const names = Object.keys(acts) as Name[];
  const costs = Object.fromEntries(names.map((name) => [name, [] as Cost[]])) as Record<Name, Cost[]>;
  for (let round = 0; round <= rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      spawnSync('sync');
      const [client, gateway, start] = [cpuSeconds(process.pid), cpuSeconds(server.pid), performance.now()];
      const stored = await acts[name]();
      spawnSync('sync');
      const seconds = (performance.now() - start) / 1000;
      const cost = { seconds, client: cpuSeconds(process.pid) - client, server: cpuSeconds(server.pid) - gateway };
      if (round > 0) costs[name].push(cost);
      if (stored !== undefined) await store.deleteBlob(stored);
    }
  }
  for (const name of names) console.log(`  ${name.padEnd(28)} ${costText(costs[name])}`);
  return costs;
}

const costText = (costs: Cost[]): string => {
  const of = (key: keyof Cost) => median(costs.map((cost) => cost[key])).toFixed(2);
  const each = costs.map(({ seconds }) => seconds.toFixed(2)).join(' ');
  return `${of('seconds')} s [${each}], CPU ${of('client')} s + server ${of('server')} s`;
};
const seconds = (costs: Cost[]): number => median(costs.map((cost) => cost.seconds));

const measurements: Record<string, () => Promise<void>> = {
  async upload() {
    const socketPath = await exported(disk);
    for (const compression of compressions) {
      const { path, result } = await toFile({ socketPath, compression }, 'plain-peer.qcow2');
      console.log(`upload of a full, ${compression}, ${(result.storedBytes / MIB).toFixed(0)} MiB stored`);
      const found = await contest({
        'copier, from the disk': async () => (await toBucket({ socketPath, compression })).key,
        'plain uploader, from a file': async () => {
          await peer.upload(path, 'bench/peer');
          return 'peer';
        },
      });
      const ratio = seconds(found['plain uploader, from a file']) / seconds(found['copier, from the disk']);
      const cpu = median(found['copier, from the disk'].map(({ client }) => client)) / (diskBytes / 2 / GIB);
      console.log(`  rate ${ratio.toFixed(2)} of the plain uploader's; CPU ${cpu.toFixed(2)} s per GiB of data`);
    }
  },

  async latency() {
    const socketPath = await exported(disk);
    console.log('upload of a full, zstd, through a proxy');
    const upload = async (latencyMs: number): Promise<string> => {
      proxy.latencyMs = latencyMs;
      const { key } = await toBucket({ socketPath, compression: 'zstd' }, far);
      proxy.latencyMs = 0;
      return key;
    };
    const found = await contest({ '0 ms': () => upload(0), '20 ms': () => upload(20), '100 ms': () => upload(100) });
    for (const name of ['20 ms', '100 ms'] as const) {
      console.log(
        `  ${name}: ${(seconds(found['0 ms']) / seconds(found[name])).toFixed(2)} of the rate without latency`,
      );
    }
  },

  async download() {
    const socketPath = await exported(disk);
    const { key, result } = await toBucket({ socketPath, compression: 'none' });
    console.log(`download of a full, none, ${(result.storedBytes / MIB).toFixed(0)} MiB stored, into nothing`);
    await using source = await openSource(store.source(key));
    const memory = Array.from({ length: 4 }, () => Buffer.allocUnsafeSlow(SEGMENT_BYTES));
    const found = await contest({
      'ranges, as segments are read': async () => {
        let at = 0;
        const lane = async (into: Buffer): Promise<void> => {
          while (at < result.storedBytes) await source.read((at += into.length) - into.length, into);
        };
        await Promise.all(memory.map(lane));
        return undefined;
      },
      'node:http': async () => {
        await peer.download(`bench/${key}`);
        return undefined;
      },
    });
    await store.deleteBlob(key);
    const cpu = (name: keyof typeof found): number => median(found[name].map(({ client }) => client));
    const ratio = cpu('ranges, as segments are read') / cpu('node:http');
    console.log(`  processor time ${ratio.toFixed(2)} of that of node:http`);
  },

  async restore() {
    const socketPath = await exported(disk);
    const { key, result } = await toBucket({ socketPath, compression: 'zstd' });
    const path = join(folder, 'restored.qcow2');
    const chain = [{ source: store.source(key), storedBytes: result.storedBytes, segments: result.segments }];
    console.log(`restore of a full, zstd, ${(result.storedBytes / MIB).toFixed(0)} MiB stored, verified`);
    const found = await contest({
      restore: async () => {
        rmSync(path, { force: true });
        await pool.restoreDisk({ chain, destination: { path, format: 'qcow2' }, virtualSizeBytes: diskBytes, signal });
        return undefined;
      },
      'parallel download': async () => {
        await peer.download(`bench/${key}`);
        return undefined;
      },
    });
    rmSync(path, { force: true });
    await store.deleteBlob(key);
    const ratio = seconds(found['parallel download']) / seconds(found.restore);
    console.log(`  rate ${ratio.toFixed(2)} of the download's`);
  },

  async incremental() {
    rmSync(overlay, { force: true });
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', disk, overlay]);
    const change = planChange(diskBytes / 2);
    const pattern = changePattern(join(folder, 'change.bin'));
    const writes = change.writes.flatMap(({ offsetBytes, lengthBytes }) => [
      '-c',
      `write -q -s ${pattern} ${offsetBytes} ${lengthBytes}`,
    ]);
    await run('qemu-io', ['-f', 'qcow2', ...writes, overlay]);
    const socketPath = await exported(overlay, '-A');
    const wanted = {
      socketPath,
      mapContext: 'qemu:allocation-depth',
      compression: 'none',
      backingFileName: 'full.qcow2',
    } as const;
    console.log(`increment of ${(change.dirtyBytes / MIB).toFixed(0)} MiB`);
    const { path } = await toFile(wanted, 'plain-peer.qcow2');
    const found = await contest({
      bucket: async () => (await toBucket(wanted)).key,
      directory: () => toDirectory(wanted),
      'plain uploader, from a file': async () => {
        await peer.upload(path, 'bench/peer');
        return 'peer';
      },
    });
    const ratio = (name: 'bucket' | 'plain uploader, from a file'): string =>
      (seconds(found[name]) / seconds(found.directory)).toFixed(2);
    console.log(`  ${ratio('bucket')} of the directory's time; plain uploader ${ratio('plain uploader, from a file')}`);
  },

  async memory() {
    const socketPath = await exported(disk);
    const program = join(import.meta.dirname, '..', 'test', 'copier', 'copy-program.ts');
    for (const compression of compressions) {
      const uploads = await Promise.all(
        Array.from(
          { length: 4 },
          async (_, n) => await store.createUpload(`vm/four-${compression}-${n}.qcow2`, { expectedBytes: 0 }),
        ),
      );
      const four = uploads.map(({ key, token }) => ({
        ...optionsOf({ socketPath, compression }),
        upload: { place, key, token },
      }));
      const { stdout } = await run(process.execPath, [program, JSON.stringify(four)]);
      for (const upload of uploads) await upload.abort();
      for (const { journalPath } of four) rmSync(journalPath);
      const { peakBytes } = JSON.parse(stdout.toString()) as { peakBytes: number };
      console.log(
        `memory of a process that uploads four disks at once, ${compression}: ${(peakBytes / 1e6).toFixed(0)} MB`,
      );
    }
  },

  async sealed() {
    const socketPath = await exported(disk);
    const recipient = await identityToRecipient(await generateIdentity());
    for (const compression of compressions) {
      console.log(`encrypted beside plain, full, ${compression}`);
      const found = await contest({
        'directory, plain': () => toDirectory({ socketPath, compression }),
        'directory, encrypted': () => toDirectory({ socketPath, compression, recipient }),
        'bucket, plain': async () => (await toBucket({ socketPath, compression })).key,
        'bucket, encrypted': async () => (await toBucket({ socketPath, compression, recipient })).key,
      });
      for (const where of ['directory', 'bucket'] as const) {
        const ratio = seconds(found[`${where}, encrypted`]) / seconds(found[`${where}, plain`]);
        console.log(`  ${where}: ${ratio.toFixed(2)} of the time of plain`);
      }
    }
  },
};

try {
  for (const name of values.only.split(',')) {
    const load = readFileSync('/proc/loadavg', 'latin1').split(' ')[0];
    console.log(`${name} (load before: ${load})`);
    await measurements[name]?.();
  }
} finally {
  await pool[Symbol.asyncDispose]();
  for (const { end, socketPath } of exports) {
    await end();
    rmSync(socketPath, { force: true });
  }
  await proxy[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  for (const name of ['out.qcow2', 'plain-peer.qcow2', 'overlay.qcow2', 'change.bin'])
    rmSync(join(folder, name), { force: true });
}
