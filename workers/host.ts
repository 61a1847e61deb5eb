import { Worker, type WorkerOptions } from '@temporalio/worker';
import { WorkflowIdConflictPolicy } from '@temporalio/common';
import { join } from 'node:path';
import { CaptureStore } from '../activities/host/capture-store.ts';
import { CopyNotes } from '../activities/host/copy-notes.ts';
import type { HostDependencies } from '../activities/host/dependencies.ts';
import { Fence } from '../activities/host/fence.ts';
import { Gateways } from '../activities/host/gateways.ts';
import { HostState } from '../activities/host/host-state.ts';
import { createHostActivities, createHostDataActivities, createHostJobActivities } from '../activities/host/index.ts';
import { Paces } from '../activities/host/paces.ts';
import { RestoreNotes } from '../activities/host/restore-notes.ts';
import { RewriteNotes } from '../activities/host/rewrite-notes.ts';
import { StillGuests } from '../activities/host/still-guests.ts';
import { createCopierPool } from '../copier/pool.ts';
import { DISK_CACHE_BYTES } from '../gateway/spec.ts';
import { connectLibvirt, defaultSocketPath, parseLibvirtAddress, type Libvirt } from '../libvirt/libvirt.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { CONTROL_QUEUE, hostDataQueue, hostJobsQueue, hostQueue } from '../schemas/queues.ts';
import { daemonRootOf } from './daemon-root.ts';
import { failureInterceptor } from './failure-interceptor.ts';
import type { Installation, TemporalOptions } from './installation.ts';
import { keepGateways } from './gateway-keeper.ts';
import { holdAlone } from './single-instance.ts';
import { connectClient } from './connect-client.ts';
import { connectWorker, installRuntime } from './temporal.ts';
import { startThawGuard } from './thaw-guard-client.ts';
import { holdfastVersion } from './version.ts';

export interface HostWorkerOptions {
  host: string;
  /** Socket path, or `ssh://user@host/path`; default: the system's libvirt. */
  libvirt: string | undefined;
  /** How many disks are copied at once. */
  slots: number;
  /** How many stored backups are compressed or validated at once. */
  jobSlots: number;
  /** Where QEMU keeps what the guest overwrites during a backup. */
  scratchDir: string | undefined;
  /** Room on this host's disk for what a gateway read of a bucket; default 10 GiB. */
  gatewayCacheBytes?: number | undefined;
  metrics: string | undefined;
  signal: AbortSignal;
  log: (line: string) => void;
}

/** The worker of one KVM host: quick steps and undo on one queue, copies on another. Runs until the signal. */
export async function runHostWorker(installation: Installation, options: HostWorkerOptions): Promise<void> {
  const { host, signal, log, slots } = options;
  const { temporal, dataDir } = installation;
  installRuntime(options);
  const stateDir = join(dataDir, 'hosts', host);
  await using _lock = await holdAlone(join(stateDir, 'worker.lock'), signal, log);
  const address = parseLibvirtAddress(options.libvirt ?? defaultSocketPath());
  if (address.kind !== 'unix') {
    throw new HoldfastError(
      'InvalidRequest',
      `libvirt: a host worker runs beside its libvirt, give its socket, not ${options.libvirt ?? ''}`,
    );
  }
  await using libvirt = connectLibvirt(address);
  await using guard = startThawGuard(libvirt.address);
  await using copier = createCopierPool();
  const captures = new CaptureStore(join(stateDir, 'captures'));
  const state = new HostState({
    stateDir,
    scratchDir: options.scratchDir ?? join(stateDir, 'scratch'),
    runtimeDir: process.getuid?.() === 0 ? '/run/holdfast' : `/tmp/holdfast-${process.getuid?.() ?? 0}`,
  });
  const gateways = new Gateways(state, { diskCacheBytes: options.gatewayCacheBytes ?? DISK_CACHE_BYTES });
  const restores = new RestoreNotes(join(stateDir, 'restores'));
  const stillGuests = new StillGuests({ libvirt, restores, gateways, openStore: openBlobStore });
  const dependencies: HostDependencies & { restores: RestoreNotes } = {
    host,
    slots,
    libvirt,
    guard,
    copier,
    openStore: openBlobStore,
    state,
    captures,
    restores,
    fence: new Fence(),
    paces: new Paces(log),
    rewrites: new RewriteNotes(join(stateDir, 'rewrites')),
    copies: new CopyNotes(join(stateDir, 'copies')),
    gateways,
    stillGuests,
    daemonRoot: () => daemonRootOf(address.path),
    versions: () => versionsOf(libvirt),
  };
  await using _keeper = keepGateways(gateways, stillGuests, log);
  const connection = await connectWorker(temporal, signal, log);
  try {
    const common = {
      connection,
      namespace: temporal.namespace,
      interceptors: { activity: [failureInterceptor] },
      maxHeartbeatThrottleInterval: '2 seconds',
      defaultHeartbeatThrottleInterval: '2 seconds',
    } satisfies Partial<WorkerOptions>;
    const quick = await Worker.create({
      ...common,
      taskQueue: hostQueue(host),
      activities: createHostActivities(dependencies),
      shutdownGraceTime: '20 seconds',
    });
    const data = await Worker.create({
      ...common,
      taskQueue: hostDataQueue(host),
      activities: createHostDataActivities(dependencies),
      maxConcurrentActivityTaskExecutions: slots,
      shutdownGraceTime: '5 seconds', // a copy goes on from where it stopped
    });
    const jobActivities = createHostJobActivities(dependencies);
    const jobs =
      Object.keys(jobActivities).length === 0
        ? undefined
        : await Worker.create({
            ...common,
            taskQueue: hostJobsQueue(host),
            activities: jobActivities,
            maxConcurrentActivityTaskExecutions: options.jobSlots,
            shutdownGraceTime: '5 seconds', // begun anew, or from where it stopped
          });
    const stop = (): void => {
      jobs?.shutdown();
      data.shutdown();
      quick.shutdown();
    };
    signal.addEventListener('abort', stop, { once: true });
    log(`host worker ${host} ready, libvirt at ${libvirt.address}`);
    if (signal.aborted) return;
    void announce(temporal, host, log);
    await Promise.all([quick.run(), data.run(), jobs?.run()]);
  } finally {
    await connection.close();
  }
}

const versionsOf = async (libvirt: Libvirt): Promise<Record<string, string>> => ({
  holdfast: holdfastVersion(),
  node: process.version,
  libvirt: await libvirt.libVersion(),
  qemu: await libvirt.hypervisorVersion(),
});

/** Makes the host and its VMs known; a control worker that is not up yet does it when it comes. */
async function announce(temporal: TemporalOptions, host: string, log: (line: string) => void): Promise<void> {
  try {
    const client = await connectClient(temporal);
    await client.workflow.start('inventoryHost', {
      taskQueue: CONTROL_QUEUE,
      workflowId: `inventory-${host}`,
      workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
      args: [{ host }],
    });
    await client.connection.close();
  } catch (error) {
    log(`inventory of ${host} was not started: ${error instanceof Error ? error.message : String(error)}`);
  }
}
