import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { buildGuestKernel } from '../test/support/guest.ts';
import { startKvmHost, stopKvmHost, type KvmHost } from '../test/support/kvm-host.ts';
import { tempDir } from '../test/support/temp.ts';
import { startDev } from './dev-process.ts';
import { Holdfast } from './holdfast.ts';
import type { Progress } from './progress.ts';

export const HOST = 'kvm-1';

/** A KVM host of its own with a Holdfast installation beside it, in a folder under /tmp. Disposal removes all of it. */
export interface Playground extends AsyncDisposable {
  readonly dir: string;
  readonly dataDir: string;
  readonly repositoryDir: string;
  readonly host: KvmHost;
  readonly holdfast: Holdfast;
  /** `holdfast dev` answers: resolves with the address of Temporal's UI. */
  readonly ready: Promise<{ temporalUi: string }>;
  /** From now on disposal leaves everything running. */
  keep(): void;
}

export const placesIn = (dir: string) => ({
  hostDir: join(dir, 'kvm'),
  dataDir: join(dir, 'data'),
  repositoryDir: join(dir, 'repository'),
});

export async function openPlayground(progress: Progress): Promise<Playground> {
  progress.say('preparing the guest: a Linux kernel, busybox and the QEMU guest agent (built once, then kept)');
  await buildGuestKernel(); // not raced with the signal: what it starts ends by itself in seconds
  const { path: dir } = await tempDir('hfq');
  progress.say(`working in ${dir}`);
  const { hostDir, dataDir, repositoryDir } = placesIn(dir);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
  undo.defer(() => stopKvmHost(hostDir));
  const starting = startDev({
    dataDir,
    args: ['--libvirt', join(hostDir, 'run', 'libvirt-sock'), '--host', HOST, '--repo', repositoryDir],
  });
  undo.defer(() => starting.stop()); // first of all: it would start again what ends
  const host = await progress.step('starting a private KVM host, and holdfast dev: Temporal and the workers', () =>
    startKvmHost({ name: HOST, dir: hostDir }),
  );
  undo.defer(() => host.libvirt[Symbol.asyncDispose]());
  const undoLater = undo.move();
  let kept = false;
  return {
    dir,
    dataDir,
    repositoryDir,
    host,
    ready: starting.ready,
    holdfast: new Holdfast(dataDir, progress.signal),
    keep: () => (kept = true),
    async [Symbol.asyncDispose]() {
      if (!kept) await undoLater.disposeAsync();
    },
  };
}
