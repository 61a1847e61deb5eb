import { readdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { expect } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain, DomainState, Libvirt } from '../../libvirt/libvirt.ts';

export interface ExpectedVm {
  /** Active image of each disk, by target; these and no other disks. */
  activeImages: Record<string, string>;
  /** Checkpoints libvirt knows, in any order; none by default. */
  checkpoints?: string[];
  /** `running` by default. */
  state?: DomainState;
  /** File names that may lie beside the disks, further to the disks themselves. */
  otherFiles?: (string | RegExp)[];
  /** Further folders that must hold no file at all, as one for scratch files and NBD sockets. */
  emptyDirs?: string[];
}

/** Fails, naming all that is wrong at once, unless the VM is as if nothing had ever happened to it. */
export async function expectVmClean(
  { libvirt }: { libvirt: Libvirt },
  vmName: string,
  { activeImages, checkpoints = [], state = 'running', otherFiles = [], emptyDirs = [] }: ExpectedVm,
): Promise<void> {
  const dom = await libvirt.lookupByName(vmName);
  if (dom === undefined) throw new Error(`${vmName} is gone`);
  const now = (await libvirt.state(dom)).state;
  const { disks, isAgentConnected } = parseDomainXml(await libvirt.domainXml(dom));
  const filled = disks.filter(({ device, empty }) => device === 'disk' && !empty);
  const targets = filled.map(({ target }) => target);
  const found = {
    state: now,
    activeImages: Object.fromEntries(filled.map(({ target, sourcePath }) => [target, sourcePath])),
    job: now === 'shutoff' ? 'none' : (await libvirt.jobStats(dom)).type,
    backupJob: now === 'shutoff' ? undefined : await libvirt.backupXml(dom),
    blockJobs: now === 'shutoff' ? [] : await blockJobs(libvirt, dom, targets),
    mirrors: filled.filter(({ hasMirror }) => hasMirror).map(({ target }) => target),
    checkpoints: (await libvirt.checkpointList(dom)).toSorted(),
    snapshots: await libvirt.snapshotList(dom),
    frozen: now === 'running' && isAgentConnected === true ? await freezeStatus(libvirt, dom) : 'thawed',
    strayFiles: await strayFiles(
      filled.flatMap(({ sourcePath }) => (sourcePath === null ? [] : [sourcePath])),
      otherFiles,
    ),
    strayInEmptyDirs: (await Promise.all(emptyDirs.map(listed))).flat(),
  };
  expect(found, `${vmName} is not as it was`).toEqual({
    state,
    activeImages,
    job: 'none',
    backupJob: undefined,
    blockJobs: [],
    mirrors: [],
    checkpoints: checkpoints.toSorted(),
    snapshots: [],
    frozen: 'thawed',
    strayFiles: [],
    strayInEmptyDirs: [],
  });
}

async function blockJobs(libvirt: Libvirt, dom: Domain, targets: readonly string[]): Promise<string[]> {
  const jobs = await Promise.all(
    targets.map(async (target) => {
      const job = await libvirt.blockJobInfo(dom, target);
      return job === undefined ? [] : [`${target}: ${job.type}`];
    }),
  );
  return jobs.flat();
}

const freezeStatus = async (libvirt: Libvirt, dom: Domain): Promise<unknown> =>
  await libvirt.agentCommand(dom, { execute: 'guest-fsfreeze-status' }, 10);

/** What lies in the folders of the disks and is neither a disk nor expected: overlays, scratch files, sockets. */
async function strayFiles(images: readonly string[], others: readonly (string | RegExp)[]): Promise<string[]> {
  const folders = [...new Set(images.map((image) => dirname(image)))];
  const files = (await Promise.all(folders.map(listed))).flat();
  const isExpected = (file: string): boolean =>
    images.includes(file) ||
    others.some((other) => (typeof other === 'string' ? other === basename(file) : other.test(basename(file))));
  return files.filter((file) => !isExpected(file));
}

const listed = async (folder: string): Promise<string[]> => {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  return entries.filter((entry) => !entry.isDirectory()).map(({ name }) => `${folder}/${name}`);
};
