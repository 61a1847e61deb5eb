/**
 * What a quick restore pulls out of a bucket through the gateway, beside a plain parallel download of the same object.
 * bench/README.md, "Gateway", has the figures.
 *
 *   node bench/gateway.ts [--rounds 2] [--gib 2] [--folder DIR] [--only plain,zstd,sealed] [--profile DIR]
 *
 * The disk is of `--gib` GiB, half of it data. Each act has a gateway of its own, a process that has read nothing yet.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { generateIdentity, identityToRecipient } from 'age-encryption';
import { ENVIRONMENT, NODE_FLAGS } from '../gateway/small-process.ts';
import { createCopierPool } from '../copier/pool.ts';
import { AGE_HEAD_BYTES } from '../repository/age-file.ts';
import { openAgeHead } from '../repository/age-head.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { openSource } from '../repository/source.ts';
import { run } from '../test/support/run.ts';
import { startS3Server } from '../test/support/s3-server.ts';
import { fillImage, GIB, makePatterns, MIB } from './disk-content.ts';
import { cpuSeconds, median } from './harness.ts';
import { plainS3 } from './plain-s3.ts';
import type { StoredDisk } from './serve-gateway.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    gib: { type: 'string', default: '2' },
    folder: { type: 'string', default: '/var/tmp/holdfast-bench-gateway' },
    only: { type: 'string', default: 'plain,zstd,sealed' },
    profile: { type: 'string' },
  },
});
const { folder, profile } = values;
const rounds = Number(values.rounds);
const diskBytes = Number(values.gib) * GIB;
const { signal } = new AbortController();
mkdirSync(folder, { recursive: true });
const local = join(folder, `disk-${values.gib}.qcow2`);
if (!existsSync(local)) {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', local, String(diskBytes)]);
  await fillImage(local, diskBytes / 2, makePatterns(folder));
}
const localSocket = join(folder, 'local.sock');
const overlay = join(folder, 'overlay.qcow2');
const server = await startS3Server('versitygw');
const place = await server.newPlace('bench');
const store = openBlobStore(place);
const peer = plainS3(place, server.keys);

async function untilThere(path: string): Promise<void> {
  while (!existsSync(path)) await delay(20);
}

/** The local disk by qemu-nbd, for as long as `use` lasts. */
async function withLocal<T>(use: (uri: string, process: ChildProcess) => Promise<T>): Promise<T> {
  rmSync(localSocket, { force: true });
  const options = ['-r', '-t', '-e', '16', '--cache=none', '--aio=native', '-k', localSocket, '-f', 'qcow2', local];
  const server = spawn('qemu-nbd', options, { stdio: 'ignore' });
  await untilThere(localSocket);
  try {
    return await use(`nbd+unix:///?socket=${localSocket}`, server);
  } finally {
    server.kill();
    await once(server, 'exit');
  }
}

/** Stores the disk in the bucket. */
async function storeAs(form: string): Promise<StoredDisk> {
  const key = `vm/${form}.qcow2`;
  const identity = await generateIdentity();
  const recipient = form === 'sealed' ? await identityToRecipient(identity) : undefined;
  const upload = await store.createUpload(key, { expectedBytes: 0 });
  await using pool = createCopierPool();
  const { storedBytes, segments, plainBytes } = await withLocal((_, { pid }) => {
    if (pid === undefined) throw new Error('no qemu-nbd');
    const virtualSizeBytes = diskBytes;
    return pool.copyDisk({
      source: { socketPath: localSocket, exportName: '', mapContext: 'base:allocation', virtualSizeBytes },
      compression: form === 'zstd' ? 'zstd' : 'none',
      journalPath: join(folder, `journal-${form}`),
      sink: upload.sink,
      recipient,
      signal,
    });
  });
  await upload.finish(storedBytes);
  rmSync(join(folder, `journal-${form}`), { force: true });
  const disk = {
    socketPath: join(folder, 'gateway.sock'),
    virtualSizeBytes: diskBytes,
    place,
    key,
    file: { storedBytes, segments },
  };
  if (plainBytes === undefined) return disk;
  await using source = await openSource(store.source(key));
  const head = Buffer.alloc(AGE_HEAD_BYTES);
  await source.read(0, head);
  const payloadKey = (await openAgeHead(head, [identity])).toString('hex');
  return { ...disk, encryption: { payloadKey, plainBytes } };
}

interface Cost {
  seconds: number;
  /** Processor time of whoever serves or downloads. */
  cpu: number;
  peakMiB: number;
}

/** A gateway that has read nothing, for as long as `use` lasts. */
async function withGateway(disk: StoredDisk, use: (uri: string) => Promise<void>): Promise<Cost> {
  const note = join(folder, 'served.json');
  writeFileSync(note, JSON.stringify(disk));
  rmSync(disk.socketPath, { force: true });
  const program = join(import.meta.dirname, 'serve-gateway.ts');
  const profiling = profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`];
  const gateway = spawn(process.execPath, [...NODE_FLAGS, ...profiling, program, note], {
    stdio: 'inherit',
    env: { ...process.env, ...ENVIRONMENT, NODE_COMPILE_CACHE: join(folder, 'compile-cache') }, // as bin/holdfast has it
  });
  const { pid = 0 } = gateway;
  await untilThere(disk.socketPath);
  await delay(200);
  const [cpu, start] = [cpuSeconds(pid), performance.now()];
  await use(`nbd+unix:///vda?socket=${disk.socketPath}`);
  const seconds = (performance.now() - start) / 1000;
  const peakKiB = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
  const cost = { seconds, cpu: cpuSeconds(pid) - cpu, peakMiB: Number(peakKiB) / 1024 };
  gateway.kill('SIGTERM');
  await once(gateway, 'exit');
  return cost;
}

/** What libvirt's pull is: QEMU's job `stream`, of an overlay that is opened past the page cache. */
async function pull(uri: string): Promise<void> {
  const monitor = join(folder, 'qmp.sock');
  for (const path of [monitor, overlay]) rmSync(path, { force: true });
  await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-b', uri, '-F', 'raw', overlay, String(diskBytes)]);
  const drive = [
    `node-name=vda,driver=qcow2,discard=unmap,file.driver=file,file.filename=${overlay}`,
    'file.aio=native,file.cache.direct=on,cache.direct=on',
  ].join(',');
  const qemu = spawn(
    'qemu-system-x86_64',
    ['-S', '-machine', 'none', '-nodefaults', '-display', 'none', '-qmp', `unix:${monitor},server=on,wait=off`].concat(
      '-blockdev',
      drive,
    ),
    { stdio: 'inherit' },
  );
  await untilThere(monitor);
  const socket = connect(monitor);
  const tell = (execute: string, args: object = {}): void =>
    void socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
  tell('qmp_capabilities');
  tell('block-stream', { 'job-id': 'pull', device: 'vda' });
  for await (const line of createInterface(socket)) {
    const said = JSON.parse(line) as { event?: string; error?: unknown; data?: { error?: string } };
    if (said.error !== undefined || said.data?.error !== undefined) throw new Error(line);
    if (said.event === 'BLOCK_JOB_COMPLETED') break;
  }
  socket.destroy();
  qemu.kill();
  await once(qemu, 'exit');
}

const measured = async (act: () => Promise<void>): Promise<Cost> => {
  const [cpu, start] = [cpuSeconds(process.pid), performance.now()];
  await act();
  return { seconds: (performance.now() - start) / 1000, cpu: cpuSeconds(process.pid) - cpu, peakMiB: 0 };
};

/** Each act in turns; the first round warms up. */
async function contest(form: string): Promise<void> {
  const disk = await storeAs(form);
  const { storedBytes } = disk.file;
  const acts: Record<string, () => Promise<Cost>> = {
    'plain parallel download': () => measured(() => peer.download(`bench/${disk.key}`)),
    'gateway to nbdcopy': () =>
      withGateway(disk, async (uri) => {
        await run('nbdcopy', ['--connections=1', uri, 'null:']);
      }),
    'gateway to a pull': () => withGateway(disk, pull),
    'local qemu-nbd to a pull': () => withLocal(async (uri) => await measured(() => pull(uri))),
  };
  const costs = new Map<string, Cost[]>(Object.keys(acts).map((name) => [name, []]));
  for (let round = 0; round <= rounds; round += 1) {
    for (const [name, act] of Object.entries(acts)) {
      const cost = await act();
      if (round > 0 || rounds === 0) costs.get(name)?.push(cost);
    }
  }
  console.log(`${form}: ${(storedBytes / MIB).toFixed(0)} MiB stored, ${diskBytes / 2 / MIB} MiB of data`);
  const mid = (name: string, key: keyof Cost): number => median((costs.get(name) ?? []).map((cost) => cost[key]));
  const mark = mid('plain parallel download', 'seconds');
  for (const [name, all] of costs) {
    const took = mid(name, 'seconds');
    const each = all.map(({ seconds }) => seconds.toFixed(2)).join(' ');
    console.log(
      `  ${name.padEnd(26)} ${took.toFixed(2)} s [${each}], stored ${(storedBytes / MIB / took).toFixed(0)} MiB/s, ` +
        `data ${(diskBytes / 2 / MIB / took).toFixed(0)} MiB/s, ${(mark / took).toFixed(2)} of the download's rate, ` +
        `CPU ${mid(name, 'cpu').toFixed(2)} s, peak ${mid(name, 'peakMiB').toFixed(0)} MiB`,
    );
  }
  await store.deleteBlob(disk.key);
}

try {
  for (const form of values.only.split(',')) {
    console.log(`load ${readFileSync('/proc/loadavg', 'latin1').split(' ')[0]}`);
    await contest(form);
  }
} finally {
  await server[Symbol.asyncDispose]();
  rmSync(overlay, { force: true });
}
