import { DefaultLogger } from '@temporalio/worker';
import { MockActivityEnvironment } from '@temporalio/testing';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Fence } from '../../activities/host/fence.ts';
import type { HostDependencies } from '../../activities/host/dependencies.ts';
import { RestoreNotes } from '../../activities/host/restore-notes.ts';
import { createSwapDisks } from '../../activities/host/swap-disks.ts';
import { diskOnFile } from '../../libvirt/disk-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import type { PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const BACKUP = '3f2c9a41-0000-4000-8000-000000000000';
const RESTORE = '5f2c9a41-0000-4000-8000-000000000000';
const SILENT = new DefaultLogger('ERROR', () => undefined);
const VM = { uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', name: 'web-1' };

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'hf-swap-disks-'));
  for (const folder of ['images', 'nvram', 'notes', 'repository']) await mkdir(join(dir, folder));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

const image = (name: string): string => join(dir, 'images', name);
const diskXml = (target: string): string =>
  `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${image(target)}'/><target dev='${target}' bus='virtio'/></disk>`;
const domainXml = (...targets: string[]): string =>
  `<domain type='qemu'><name>web-1</name><uuid>${VM.uuid}</uuid><memory>1024</memory><os><nvram>/nvram/web-1.fd</nvram></os><devices>${targets.map(diskXml).join('')}</devices></domain>`;

/** A worker that dies, or a libvirt whose answer is lost, at one instant of many. */
class Trip {
  #left: number;
  constructor(at: number) {
    this.#left = at;
  }
  pass(): void {
    this.#left -= 1;
    if (this.#left === 0) throw new Error('killed');
  }
}

/** A libvirt that holds one stopped VM, or none; each call can be the last one before, or after, it was carried out. */
class FakeLibvirt {
  defined: string | undefined;
  trip = new Trip(0);
  constructor(defined: string | undefined) {
    this.defined = defined;
  }
  #domain = (): Domain | undefined => (this.defined === undefined ? undefined : { ...VM, id: -1 });
  async #call<T>(act: () => T): Promise<T> {
    this.trip.pass();
    const result = await Promise.resolve(act());
    this.trip.pass();
    return result;
  }
  lookupByUuid = (): Promise<Domain | undefined> => this.#call(this.#domain);
  lookupByName = (): Promise<Domain | undefined> => this.#call(this.#domain);
  state = () => this.#call(() => ({ state: 'shutoff', reason: 0 }));
  domainXml = () => this.#call(() => this.defined ?? '');
  checkpointList = () => this.#call(() => []);
  define = (xml: string) => this.#call(() => void (this.defined = xml));
  undefine = () => this.#call(() => void (this.defined = undefined));
  attachDevice = (_: Domain, xml: string) =>
    this.#call(() => void (this.defined = this.defined?.replace('</devices>', `${xml}</devices>`)));
  detachDevice = (_: Domain, xml: string) =>
    this.#call(() => {
      const path = /file="([^"]*)"/.exec(xml)?.[1] ?? '';
      if (diskOnFile(this.defined ?? '', path) === undefined) throw new Error('no such disk');
      this.defined = this.defined?.replace(/<disk(?:(?!<disk).)*?<\/disk>(?=<\/devices>)/s, '');
    });
}

class TrippedNotes extends RestoreNotes {
  constructor(root: string, trip: () => Trip) {
    super(root);
    const write = this.write;
    this.write = async (...parameters) => {
      trip().pass();
      await write(...parameters);
      trip().pass();
    };
  }
}

const plan: RestorePlan = {
  restoreId: RESTORE,
  backupId: BACKUP,
  vm: VM,
  as: null,
  host: 'kvm-1',
  repository: {
    name: 'main',
    id: '0d9fd8a1-3b1f-4c52-8f55-1f2f8a3a7b11',
    location: { kind: 'directory', path: '/' },
    slots: 1,
    createdAt: '2026-11-21T12:00:00.000Z',
  },
  timeLimitSeconds: 60,
  start: false,
};
const preparedWith = (define: boolean): PreparedRestore => ({
  vm: VM,
  define,
  disks: ['vda', 'vdb'].map((target) => ({
    target,
    chain: [{ backupId: BACKUP, file: 'f' }],
    virtualSizeBytes: 1,
    path: image(target),
    besidePath: image(`${target}.beside`),
    formerPath: image(`${target}.former`),
    format: 'qcow2' as const,
    isNew: define || target === 'vdb',
    attachAs: !define && target === 'vdb' ? 'vdb' : null,
  })),
});

async function sceneOf(define: boolean) {
  const content = Buffer.from('restored variables');
  const manifest = manifestOf(BACKUP, {
    domainXml: { inactive: domainXml('vda', 'vdb'), live: null },
    files: [
      {
        kind: 'nvram',
        path: '/nvram/web-1.fd',
        mode: 0o600,
        sha256: createHash('sha256').update(content).digest('hex'),
        content: content.toString('base64'),
      },
    ],
  });
  const repository = join(dir, 'repository');
  const identity = { id: plan.repository.id, formatVersion: 1, createdAt: plan.repository.createdAt };
  await writeFile(join(repository, 'repository.json'), JSON.stringify(identity));
  await mkdir(join(repository, VM.uuid, 'backups'), { recursive: true });
  await writeFile(join(repository, VM.uuid, 'backups', `${BACKUP}.json`), JSON.stringify(manifest));

  if (!define) await writeFile(image('vda'), 'former vda');
  if (!define) await writeFile(join(dir, 'nvram', 'web-1.fd'), 'former variables');
  for (const target of ['vda', 'vdb']) await writeFile(image(`${target}.beside`), `restored ${target}`);
  const libvirt = new FakeLibvirt(define ? undefined : domainXml('vda'));
  const restores = new TrippedNotes(join(dir, 'notes'), () => libvirt.trip);
  const steps = createSwapDisks({
    host: 'kvm-1',
    libvirt,
    restores,
    fence: new Fence(),
    openStore: () => openBlobStore({ kind: 'directory', path: repository }),
    daemonRoot: () => Promise.resolve(dir),
  } as unknown as HostDependencies & { restores: RestoreNotes });
  const environment = new MockActivityEnvironment(undefined, { logger: SILENT });
  const prepared = preparedWith(define);
  await restores.write(RESTORE, { plan, prepared, phase: 'writing' });
  return {
    libvirt,
    swap: () => environment.run(() => steps.swapDisks(plan, prepared)),
    finish: () => environment.run(() => steps.finishRestore(plan, prepared)),
    undo: () => environment.run(() => steps.undoRestore(plan)),
    /** All that is left of it: files with their contents, and which disks the VM has. */
    found: async () => ({
      files: await contentsBelow(),
      disks: [...(libvirt.defined ?? '').matchAll(/target dev=.(\w+)/g)].map(([, target]) => target),
    }),
  };
}

async function contentsBelow(): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const folder of ['images', 'nvram', 'notes']) {
    for (const name of (await readdir(join(dir, folder))).toSorted()) {
      found[`${folder}/${name}`] = folder === 'notes' ? '' : await readFile(join(dir, folder, name), 'utf8');
    }
  }
  return found;
}

const RESTORED = {
  files: {
    'images/vda': 'restored vda',
    'images/vdb': 'restored vdb',
    'nvram/web-1.fd': 'restored variables',
  },
  disks: ['vda', 'vdb'],
};
const FORMER = {
  inPlace: { files: { 'images/vda': 'former vda', 'nvram/web-1.fd': 'former variables' }, disks: ['vda'] },
  anew: { files: {}, disks: [] },
};

describe.each([
  ['in place, with a disk that is gone', false, FORMER.inPlace],
  ['of a VM that is gone', true, FORMER.anew],
] as const)('a swap %s', (_, define, former) => {
  /** Kills it at every instant there is, and then lets `goOn` happen. */
  async function atEveryInstant(goOn: (scene: Awaited<ReturnType<typeof sceneOf>>) => Promise<void>): Promise<void> {
    for (let at = 1; ; at += 1) {
      for (const folder of ['images', 'nvram', 'notes', 'repository']) {
        await rm(join(dir, folder), { recursive: true });
        await mkdir(join(dir, folder));
      }
      const scene = await sceneOf(define);
      scene.libvirt.trip = new Trip(at);
      const killed = await scene.swap().then(
        () => false,
        () => true,
      );
      if (!killed) {
        expect(at).toBeGreaterThan(10);
        return;
      }
      scene.libvirt.trip = new Trip(0);
      await goOn(scene).catch((error: unknown) => {
        throw new Error(`killed at instant ${at}: ${String(error)}`, { cause: error });
      });
    }
  }

  it('comes to its end when it is repeated after a kill at any instant', async () => {
    await atEveryInstant(async ({ swap, finish, found }) => {
      await swap();
      await swap();
      await finish();
      expect(await found()).toEqual(RESTORED);
    });
  });

  it('is undone without a trace after a kill at any instant, though the undo is repeated', async () => {
    await atEveryInstant(async ({ undo, finish, found, libvirt }) => {
      libvirt.trip = new Trip(4);
      await undo().catch(() => undefined);
      libvirt.trip = new Trip(0);
      await undo();
      await undo();
      const now = await found();
      if (now.files['images/vdb'] === undefined) expect(now).toEqual(former);
      else {
        await finish(); // all was swapped, and only the answer was lost
        expect(await found()).toEqual(RESTORED);
      }
    });
  });
});
