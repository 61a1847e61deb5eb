import { createHash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { createAdmission } from '../activities/control/admission.ts';
import type { ControlDependencies } from '../activities/control/dependencies.ts';
import { createRescan } from '../activities/control/rescan.ts';
import type { HostDependencies } from '../activities/host/dependencies.ts';
import { createKeepValidation } from '../activities/host/keep-validation.ts';
import { createReadStored } from '../activities/host/read-stored.ts';
import { openCatalog } from '../catalog/open-catalog.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import { initRepository } from '../repository/identity.ts';
import { encodeJson } from '../repository/json-blob.ts';
import { manifestKey } from '../repository/layout.ts';
import { createBlobStore, openBlobStore } from '../repository/open-repository.ts';
import { CONTROL_QUEUE, hostQueue } from '../schemas/queues.ts';
import { repositoryLocation } from '../schemas/repository.ts';
import { searchAttributes } from '../schemas/search-attributes.ts';
import { manifestOf } from '../test/support/sample-manifest.ts';

/**
 * How long `repo rescan` takes for many backups, into an empty catalog and again: the whole workflow, on Temporal's dev
 * server, a host worker's activities and a SQLite catalog; without a KVM host, which it does not need. `--s3` takes the
 * place as JSON, like the catalog keeps it, of an empty bucket or prefix; filling that takes longer than the rescan, so
 * `--fill` does only that and prints the repository's id, and `--filled ID` measures what is there.
 */
const { values } = parseArgs({
  options: {
    backups: { type: 'string', default: '10000' },
    vms: { type: 'string', default: '1000' },
    s3: { type: 'string' },
    fill: { type: 'boolean', default: false },
    filled: { type: 'string' },
    folder: { type: 'string', default: tmpdir() },
  },
});
const ROOT = join(import.meta.dirname, '..');
const HOST = 'kvm-1';
const backups = Number(values.backups);
const vms = Number(values.vms);

const folder = await mkdtemp(join(values.folder, 'holdfast-bench-rescan-'));
try {
  const location =
    values.s3 === undefined
      ? ({ kind: 'directory', path: join(folder, 'repository') } as const)
      : repositoryLocation.parse(JSON.parse(values.s3));
  const id = values.filled ?? randomUUID();
  if (values.filled === undefined) {
    const store = await createBlobStore(location);
    await initRepository(store, { id });
    const written = Date.now();
    await writeBackups(store, location.kind === 'directory' ? location.path : null);
    console.log(`${backups} manifests of ${vms} VMs written in ${seconds(written)}: ${id}`);
  }
  if (!values.fill) await measure(id, location);
} finally {
  await rm(folder, { recursive: true, force: true });
}

/** Chains of eight, each with a full; files of the right length, without content in a directory. */
async function writeBackups(store: BlobStore, directory: string | null): Promise<void> {
  const each = Math.ceil(backups / vms);
  const domainXml = `<domain>${'<device><address type="pci" domain="0x0000" bus="0x00"/></device>\n'.repeat(90)}</domain>`;
  let left = backups;
  const works: (() => Promise<void>)[] = [];
  for (let vm = 0; vm < vms; vm += 1) {
    const uuid = randomUUID();
    let parent: { id: string; chainId: string; file: string } | undefined;
    for (let n = 0; n < each && left > 0; n += 1, left -= 1) {
      const backupId = randomUUID();
      const position = (n % 8) + 1;
      const instant = new Date(Date.UTC(2026, 0, 1) + n * 3_600_000).toISOString();
      const stamp = instant.slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');
      const file: string = `${uuid}/disk-0/${position === 1 ? 'full' : 'incr'}-${stamp}.qcow2`;
      const before = position === 1 ? undefined : parent;
      const sample = manifestOf(backupId);
      const [disk] = sample.disks;
      if (disk === undefined) throw new Error('the sample has no disk');
      const manifest = {
        ...sample,
        vm: { uuid, name: `vm-${vm}` },
        type: before === undefined ? 'full' : 'incremental',
        parentId: before?.id ?? null,
        chainId: before?.chainId ?? backupId,
        position,
        instant,
        domainXml: { inactive: domainXml, live: domainXml },
        checkpointXml: '<domaincheckpoint/>',
        disks: [
          {
            ...disk,
            type: before === undefined ? 'full' : 'incremental',
            fullReason: before === undefined ? 'first-backup' : null,
            file,
            backingFile: before?.file ?? null,
            sums: { file: `${file}.sums`, sha256: createHash('sha256').update(file).digest('hex'), segments: 1 },
          },
        ],
      };
      parent = { id: backupId, chainId: manifest.chainId, file };
      const content = encodeJson(manifest);
      works.push(() => put(store, directory, manifestKey(uuid, backupId), content));
      works.push(() => put(store, directory, file, Buffer.alloc(disk.storedBytes)));
      works.push(() => put(store, directory, `${file}.sums`, Buffer.from('x')));
    }
  }
  const next = works.values();
  await Promise.all(
    Array.from({ length: 64 }, async () => {
      for (const work of next) await work();
    }),
  );
}

async function put(store: BlobStore, directory: string | null, key: string, content: Buffer): Promise<void> {
  if (directory === null) {
    await store.putBlob(key, content);
    return;
  }
  const path = join(directory, key);
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, content);
  if (key.endsWith('.qcow2')) await truncate(path, content.length);
}

async function measure(id: string, location: ReturnType<typeof repositoryLocation.parse>): Promise<void> {
  Runtime.install({
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
  });
  const own = join(ROOT, '.tools', 'bin', 'temporal');
  const environment = await TestWorkflowEnvironment.createLocal({
    server: {
      executable: { type: 'existing-path', path: existsSync(own) ? own : 'temporal' },
      searchAttributes: Object.values(searchAttributes),
      log: { format: 'pretty', level: 'error' },
    },
  });
  await using catalog = await openCatalog(`sqlite:${join(folder, 'catalog.sqlite')}`);
  await catalog.hosts.upsert({ name: HOST });
  await catalog.repositories.add({ name: 'main', id, location, slots: 16 });
  const control = {
    catalog,
    runs: { isRunning: () => Promise.resolve(true), signalGranted: () => Promise.resolve() },
  } as unknown as ControlDependencies;
  const host = { openStore: openBlobStore } as unknown as HostDependencies;
  const { nativeConnection: connection, client } = environment;
  const workers = await Promise.all([
    Worker.create({
      connection,
      taskQueue: CONTROL_QUEUE,
      workflowsPath: join(ROOT, 'workflows', 'index.ts'),
      activities: { ...createRescan(control), ...createAdmission(control) },
    }),
    Worker.create({
      connection,
      taskQueue: hostQueue(HOST),
      activities: { ...createReadStored(host), ...createKeepValidation(host) },
    }),
  ]);
  const running = Promise.all(workers.map((worker) => worker.run()));
  try {
    for (const what of ['an empty catalog', 'a catalog that knows all']) {
      const startedMs = Date.now();
      const cpu = process.cpuUsage();
      const handle = await client.workflow.start('rescanRepository', {
        taskQueue: CONTROL_QUEUE,
        workflowId: `rescan-${randomUUID()}`,
        args: [{ repository: 'main' }],
      });
      const { added, changed, findings } = (await handle.result()) as {
        added: number;
        changed: number;
        findings: unknown;
      };
      const { user, system } = process.cpuUsage(cpu);
      const { historyLength, raw } = await handle.describe();
      const historyBytes = Number(raw.workflowExecutionInfo?.historySizeBytes ?? 0);
      console.log(
        `${what}: ${seconds(startedMs)}, CPU ${((user + system) / 1e6).toFixed(1)} s; ${added} added, ${changed} changed, ` +
          `${JSON.stringify(findings)}; history of ${historyLength} events, ${Math.round(historyBytes / 1024)} KiB`,
      );
    }
  } finally {
    for (const worker of workers) worker.shutdown();
    await running;
    await environment.teardown();
  }
}

function seconds(sinceMs: number): string {
  return `${((Date.now() - sinceMs) / 1000).toFixed(1)} s`;
}
