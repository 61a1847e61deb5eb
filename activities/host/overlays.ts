import { rm } from 'node:fs/promises';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { ImageLayer } from '../../schemas/delta.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupPlan } from '../../schemas/plan.ts';
import { CommandFailed, runCommand } from '../run-command.ts';
import type { HostDependencies } from './dependencies.ts';
import { imageChains, type ImageChains } from './image-chain.ts';
import { mergeSteps, type MergeStep, type Ownership } from './merge-plan.ts';
import { MergeNotes } from './merge-notes.ts';
import { mergeRunning } from './merge-running.ts';
import { powerOf } from './power.ts';
import { imagesOfSnapshots } from './snapshots.ts';

/** More merges than that on one VM do not come to an end. */
const MAX_MERGES = 256;

/** What is done to the overlays on a VM's disks. At every instant the VM reads the same bytes. */
export const createOverlays = ({ libvirt, state }: Pick<HostDependencies, 'libvirt' | 'state'>) => {
  const notes = new MergeNotes(state.mergesFolder);

  /**
   * Merges all overlays that should and may go, on a running VM by QEMU itself, on a stopped one by its tools. Repeatable
   * after a crash at any instant. Returns the disks' images afterwards, and which images took something in.
   * @throws HoldfastError MergeFailed, DomainBusy, DeltaAnomaly
   */
  async function merge(
    domain: Domain,
    { drop, keep }: { drop: ReadonlySet<string>; keep: ReadonlySet<string> },
    signal: AbortSignal,
  ): Promise<{ chains: ImageChains; owned: Ownership; changed: Set<string> }> {
    const changed = new Set<string>();
    let last = '';
    for (let merges = 0; merges < MAX_MERGES; merges += 1) {
      signal.throwIfAborted();
      const owned = { drop, keep, pinned: await imagesOfSnapshots(libvirt, domain, { signal }) };
      const images = await imageChains(libvirt, domain, { signal });
      const { isRunning, chains } = images;
      await correctDefinition(domain, images, owned);
      const [next] = [...chains].flatMap(([target, layers]) =>
        mergeSteps(layers, owned).map((step) => ({ target, step })),
      );
      if (next === undefined) return { chains, owned, changed };
      const { target, step } = next;
      const name = `${isRunning} ${step.dropped.join(' ')}`;
      if (name === last) {
        throw new HoldfastError(
          'MergeFailed',
          `disk ${target} of VM ${domain.name}: QEMU did not merge ${step.dropped[0] ?? ''} into ${step.into.path}; ` +
            'the VM goes on with it',
        );
      }
      last = name;
      await notes.begin(domain.uuid, step.dropped);
      if (isRunning) await mergeRunning(libvirt, domain, target, step, { signal });
      else await mergeStopped(domain, target, step, signal);
      changed.add(step.into.path);
      if (step.above !== null) changed.add(step.above.path); // its header names the image below
    }
    throw new HoldfastError('MergeFailed', `VM ${domain.name}: its overlays do not come to an end`);
  }

  /** Merges back the overlays of a backup that does not come about, and removes those that were never put on. */
  async function takeOff(domain: Domain, { disks }: Pick<BackupPlan, 'disks'>, signal: AbortSignal): Promise<void> {
    const paths = new Set(disks.flatMap(({ overlay }) => (overlay === undefined ? [] : [overlay.path])));
    const { chains } = await merge(domain, { drop: paths, keep: new Set() }, signal);
    await removeUnused(domain, [...paths], chains, signal);
  }

  /** Removes overlays that are no images of the VM any more, nor of its definition. */
  async function removeUnused(
    domain: Domain,
    paths: string[],
    chains: ImageChains,
    signal: AbortSignal,
  ): Promise<void> {
    const inactive = parseDomainXml(await libvirt.domainXml(domain, { inactive: true }, { signal }));
    const used = new Set([...chains.values()].flat().map(({ path }) => path));
    for (const { sourcePath, backingChain } of inactive.disks) {
      for (const path of [sourcePath, ...backingChain.map((image) => image.path)]) if (path !== null) used.add(path);
    }
    for (const path of paths) if (!used.has(path)) await rm(path, { force: true });
  }

  /**
   * What a VM starts with must not name an overlay that goes: libvirt writes the images below a disk into the definition
   * when it lays an overlay on it, and takes them from there, not from the headers, at the next start. And a crash may have
   * left the definition of a VM that was started meanwhile on an overlay that it does not run on.
   */
  async function correctDefinition(
    domain: Domain,
    { isRunning, chains }: { isRunning: boolean; chains: ImageChains },
    { drop, keep }: Ownership,
  ): Promise<void> {
    const xml = await libvirt.domainXml(domain, { inactive: true, secure: true });
    const wrong: Record<string, { path: string; format: string }> = {};
    for (const { target, sourcePath, format, backingChain } of parseDomainXml(xml).disks) {
      const layers = chains.get(target);
      const [top] = layers ?? [];
      if (sourcePath === null || layers === undefined || top === undefined) continue;
      const isOurs = drop.has(sourcePath) || keep.has(sourcePath);
      const isElsewhere = isOurs && !layers.some(({ path }) => path === sourcePath);
      const namesWhatGoes = backingChain.some(({ path }) => path !== null && drop.has(path));
      if (isRunning && isElsewhere) wrong[target] = { path: top.path, format: top.format };
      else if (!isRunning && namesWhatGoes) wrong[target] = { path: sourcePath, format };
    }
    if (Object.keys(wrong).length > 0) await libvirt.define(rewriteDomainXml(xml, { disks: wrong }));
  }

  /**
   * QEMU's image locks keep this from an image that a VM has open: a VM that was started meanwhile is found running by the
   * next look, and its overlays are merged by its QEMU.
   */
  async function mergeStopped(domain: Domain, target: string, step: MergeStep, signal: AbortSignal): Promise<void> {
    const [top = ''] = step.dropped;
    try {
      await runCommand(['qemu-img', 'commit', '-q', '-d', '-f', 'qcow2', '-b', step.into.path, top], { signal });
      if (step.above !== null) {
        await rebase(step.above, step.into, signal);
        return;
      }
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error;
      if (powerOf((await libvirt.state(domain, { signal })).state) !== 'shutoff') return;
      throw new HoldfastError('MergeFailed', `disk ${target} of VM ${domain.name}: ${error.message}`, { cause: error });
    }
    const former = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
    const { path, format } = step.into;
    await libvirt.define(rewriteDomainXml(former, { disks: { [target]: { path, format } } }));
    if (powerOf((await libvirt.state(domain)).state) === 'shutoff') return;
    const { disks } = parseDomainXml(await libvirt.domainXml(domain));
    const runsOn = disks.find((disk) => disk.target === target)?.sourcePath;
    if (runsOn === top) await libvirt.define(former); // started a moment before: its QEMU merges
  }

  const rebase = async (above: ImageLayer, into: ImageLayer, signal: AbortSignal): Promise<void> => {
    const command = ['rebase', '-q', '-u', '-f', 'qcow2', '-b', into.path, '-F', into.format, above.path];
    await runCommand(['qemu-img', ...command], { signal });
  };

  return { merge, takeOff, removeUnused };
};
