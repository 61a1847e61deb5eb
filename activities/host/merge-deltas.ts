import { dirname } from 'node:path';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { backupOfOverlay, type Delta } from '../../schemas/delta.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { CommandFailed, runCommand } from '../run-command.ts';
import { createStoppedCapture } from './capture-stopped.ts';
import { copyFence } from './copy-disk.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { isPublished } from './publish-backup.ts';
import { frozenStamp, type ImageChains } from './image-chain.ts';
import { MergeNotes } from './merge-notes.ts';
import { decideDelta, ownImageBelow, whyHeld, type Ownership } from './merge-plan.ts';
import { createOverlays } from './overlays.ts';
import { statIfThere } from './stat-if-there.ts';
import { thaw } from './thaw.ts';

/** What became of the overlays that the catalog knows of. */
export interface SettledDeltas {
  /** Gone, or not ours to look after any more. */
  forget: Delta[];
  /** Kept, with what they lie on now. */
  update: Delta[];
  /** They have to wait: why. */
  postponed: { path: string; reason: string }[];
  /** Images as no step of ours leaves them; nothing was done about them. */
  anomalies: string[];
}

export const createMergeDeltas = (dependencies: HostDependencies) => {
  const { host, libvirt, fence, captures, state, openStore } = dependencies;
  const overlays = createOverlays(dependencies);
  const notes = new MergeNotes(state.mergesFolder);
  const servers = createStoppedCapture(dependencies);

  return {
    /**
     * Looks at the real images of every disk and settles each recorded overlay: `drop` are merged into what is below them,
     * `keep` stay. Repeatable after a crash at any instant.
     * @throws MergeFailed, DomainBusy, DeltaAnomaly, VmNotFound
     */
    async mergeDeltas(
      { vm }: Pick<BackupTarget, 'vm'>,
      { keep, drop }: { keep: Delta[]; drop: Delta[] },
    ): Promise<SettledDeltas> {
      return await withHeartbeat('merging overlays', () =>
        fence.run(`merge ${vm.uuid}`, cancellationSignal(), async (signal) => {
          const domain = await domainOf(libvirt, vm, host, { signal });
          const paths = (deltas: Delta[]) => new Set(deltas.map(({ path }) => path));
          const merged = await overlays
            .merge(domain, { drop: paths(drop), keep: paths(keep) }, signal)
            .catch(async (error: unknown) => {
              if (!signal.aborted) await notes.forget(vm.uuid); // what goes from the disk from now on is not our doing
              throw error;
            });
          const settled = await settle(domain, { keep, drop }, merged, signal);
          await notes.forget(vm.uuid);
          return settled;
        }),
      );
    },

    /**
     * Takes the overlays of a backup off that does not come about, once nobody reads what they froze. Those of a backup
     * whose manifest is written stay. Repeatable.
     */
    async undoSnapshot(backupId: string, target: BackupTarget): Promise<void> {
      await withHeartbeat('merging the overlays back', async () => {
        const signal = cancellationSignal();
        await fence.stop((key) => key === `begin ${backupId}` || key.startsWith(copyFence(backupId, '')), 'undone');
        const capture = await captures.read(backupId);
        if (capture === undefined) return;
        if (capture.phase === 'publishing' && (await isPublished(openStore, capture.plan))) return;
        await servers.endServers(backupId);
        await state.remove(backupId);
        const domain = await libvirt.lookupByUuid(target.vm.uuid, { signal });
        if (domain === undefined) return;
        // A guest that may be frozen does not wait for the merge; whether it is thawed, the rest of the undo makes sure.
        const mayBeFrozen = capture.phase === 'beginning' || capture.begun?.thawPending === true;
        if (mayBeFrozen && target.quiesce !== 'none') await thaw(libvirt, domain, 20_000);
        await overlays.takeOff(domain, capture.plan, signal);
      });
    },
  };

  async function settle(
    domain: Domain,
    { keep, drop }: { keep: Delta[]; drop: Delta[] },
    { chains, owned, changed }: { chains: ImageChains; owned: Ownership; changed: Set<string> },
    signal: AbortSignal,
  ): Promise<SettledDeltas> {
    const settled: SettledDeltas = { forget: [], update: [], postponed: [], anomalies: unknownOverlays(chains, owned) };
    const begun = await notes.begun(domain.uuid);
    const known = [...drop, ...keep];
    for (const delta of known) {
      const place = placeOf(chains, delta.path);
      const wanted = owned.keep.has(delta.path);
      const decision = decideDelta({
        delta,
        wanted,
        inChain:
          place === undefined
            ? null
            : { below: place.layers[place.at + 1]?.path ?? null, held: whyHeld(place.layers, place.at, owned) },
        overlayExists: (await frozenStamp(delta.path)) !== null,
        frozenExists: (await frozenStamp(delta.frozenPath)) !== null,
        frozenInUse: [delta.frozenPath, ownImageBelow(delta, known)].some(
          (path) => placeOf(chains, path) !== undefined,
        ),
        pinned: owned.pinned.has(delta.path),
        wasMerged: begun.has(delta.path),
        untouchedMs: await untouchedMs(delta.path),
        otherVm: place === undefined ? await otherUser(domain, delta.path, signal) : null,
      });
      if (decision.act === 'refuse') settled.anomalies.push(decision.anomaly);
      else if (decision.act === 'postpone') settled.postponed.push({ path: delta.path, reason: decision.reason });
      else if (decision.act === 'keep') {
        const below = place?.layers[place.at + 1];
        const isOurDoing =
          below !== undefined &&
          (changed.has(below.path) || (below.path !== delta.frozenPath && isRecorded(delta.frozenPath, owned)));
        if (isOurDoing) {
          settled.update.push({
            ...delta,
            frozenPath: below.path,
            frozenFormat: below.format,
            frozenStamp: await frozenStamp(below.path),
          });
        }
      } else {
        if (decision.act === 'merge-beside') await mergeBeside(delta, signal);
        if (decision.act === 'remove' || decision.act === 'merge-beside') {
          await overlays.removeUnused(domain, [delta.path], chains, signal);
        }
        settled.forget.push(delta);
      }
    }
    return settled;
  }

  /** A disk that was detached gets what was written to it; nobody has it open. */
  async function mergeBeside({ target, path, frozenPath }: Delta, signal: AbortSignal): Promise<void> {
    try {
      await runCommand(['qemu-img', 'commit', '-q', '-d', '-f', 'qcow2', '-b', frozenPath, path], { signal });
    } catch (error) {
      if (!(error instanceof CommandFailed)) throw error;
      throw new HoldfastError(
        'MergeFailed',
        `overlay ${path} of the detached disk ${target} cannot be merged into ${frozenPath}: ${error.message}`,
        { cause: error },
      );
    }
  }

  /** Another VM of the host that has the image among its own. */
  async function otherUser(domain: Domain, path: string, signal: AbortSignal): Promise<string | null> {
    for (const other of await libvirt.listDomains({ signal })) {
      if (other.uuid === domain.uuid) continue;
      const { disks } = parseDomainXml(await libvirt.domainXml(other, {}, { signal }));
      const images = disks.flatMap(({ sourcePath, backingChain }) => [
        sourcePath,
        ...backingChain.map((one) => one.path),
      ]);
      if (images.includes(path)) return other.name;
    }
    return null;
  }
};

const isRecorded = (path: string, { drop, keep }: Ownership): boolean => drop.has(path) || keep.has(path);

async function untouchedMs(path: string): Promise<number | null> {
  const info = await statIfThere(path);
  return info === undefined ? null : Date.now() - info.mtimeMs;
}

function placeOf(chains: ImageChains, path: string) {
  for (const layers of chains.values()) {
    const at = layers.findIndex((layer) => layer.path === path);
    if (at >= 0) return { layers, at };
  }
  return undefined;
}

/** Overlays that bear our name and that the catalog does not know: of another installation, or of a lost catalog. */
function unknownOverlays(chains: ImageChains, owned: Ownership): string[] {
  return [...chains].flatMap(([target, layers]) =>
    layers
      .filter(({ path }) => backupOfOverlay(path) !== undefined && !isRecorded(path, owned))
      .map(
        ({ path }) =>
          `disk ${target} lies on ${path}, an overlay of Holdfast in ${dirname(path)} that this catalog does not know; ` +
          'merge it with virsh blockcommit if no other installation protects the VM',
      ),
  );
}
