import { z } from 'zod';
import type { Claimant } from '../../catalog/claims.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import {
  addRescans,
  emptyRescan,
  foundVm,
  rescanSort,
  type FoundVm,
  type RescanFinding,
  type RescanSummary,
} from '../../schemas/rescan.ts';
import { unpack } from '../packed.ts';
import type { ControlDependencies } from './dependencies.ts';
import { judgeCopies, partCopies, type JudgedCopies } from './judge-copies.ts';
import { judgeRescan } from './judge-rescan.ts';
import { repositoryHosts } from './repository-hosts.ts';

interface Run {
  workflowId: string;
  runId: string;
}

const OPERATION = 'rescanRepository';
const MARKED: RescanFinding['sort'][] = ['missing', 'damaged'];

export const createRescan = ({ catalog, runs }: ControlDependencies) => {
  async function release(claimant: Claimant): Promise<void> {
    for (const granted of await catalog.claims.release(claimant)) {
      await runs.signalGranted(granted.workflowId, granted.runId);
    }
  }

  /** Takes over what was found of copies. Again: no change. */
  async function applyCopies(repository: string, { notes, damage, lost }: JudgedCopies): Promise<void> {
    for (const note of notes) await catalog.copies.note({ ...note, repository });
    for (const [mark, of] of Map.groupBy(damage, (one) => one.damage)) {
      const ids = of.map(({ id }) => id);
      await catalog.copies.setDamage(repository, ids, mark);
    }
    for (const { id, wasListed } of lost) {
      await catalog.copies.setState(id, repository, wasListed ? 'CopyError' : 'Expunged', ['Copied', 'Removed']);
    }
  }

  return {
    /** The repository, and the hosts to ask for its files. @throws RepositoryNotFound */
    async planRescan(name: string): Promise<{ repository: RepositoryRecord; hosts: string[] }> {
      const repository = await catalog.repositories.find(name);
      if (repository === undefined) {
        throw new HoldfastError('RepositoryNotFound', `repository: ${name} is not known; see: holdfast repo ls`);
      }
      return { repository, hosts: await repositoryHosts(catalog, []) };
    },

    /** VMs with backups in the repository as far as the catalog knows, after one and up to another, that are not in `seen`. */
    async vmsKnownIn(repository: string, after: string | null, upTo: string | null, seen: string[]): Promise<string[]> {
      const known = new Set(seen);
      const others: string[] = [];
      for (let last = after; ;) {
        const page = await catalog.backups.vmsIn(repository, { after: last, limit: 1000 });
        others.push(...page.filter((uuid) => !known.has(uuid) && (upTo === null || uuid <= upTo)));
        last = page.at(-1) ?? null;
        if (last === null || (upTo !== null && last > upTo)) break;
      }
      const listed = new Set([...seen, ...others]);
      const isNext = (uuid: string): boolean => (after === null || uuid > after) && (upTo === null || uuid <= upTo);
      const ofCopies = await catalog.copies.vmsIn(repository);
      return [...others, ...ofCopies.filter((uuid) => isNext(uuid) && !listed.has(uuid))];
    },

    /** Admits the run to these VMs, without waiting. Gives those that an operation is at work on. */
    async claimVms(vmUuids: string[], run: Run): Promise<string[]> {
      let taken = await catalog.claims.claim({ operation: OPERATION, ...run }, vmUuids);
      if (taken.length > 0) {
        // What a rescan held that was ended by force is free. Other runs that ended so left something to undo first.
        const rescans = (await catalog.admissions.list()).filter(({ operation }) => operation === OPERATION);
        const others = new Map(rescans.map(({ workflowId, runId }) => [runId, { workflowId, runId }]));
        for (const other of others.values()) {
          if (!(await runs.isRunning(other.workflowId, other.runId))) await release({ operation: OPERATION, ...other });
        }
        taken = await catalog.claims.claim({ operation: OPERATION, ...run }, vmUuids);
      }
      return taken;
    },

    /** Gives all claimed VMs back, and tells those who wait for them. Repeatable. */
    async releaseVms(run: Run): Promise<void> {
      await release({ operation: OPERATION, ...run });
    },

    /**
     * Takes over what was found of these VMs, which are admitted to the run, and says what was. A dry run only says.
     * @param parts `foundVm[]`, packed
     */
    async applyRescan(
      repository: string,
      vmUuids: string[],
      parts: string[],
      { dryRun, ...run }: Run & { dryRun: boolean },
    ): Promise<RescanSummary> {
      const found = joined(parts.flatMap((part) => unpack(part, z.array(foundVm))));
      const records = await catalog.backups.records({ vms: vmUuids, repository, all: true });
      const chains = await catalog.rescans.chains(repository, vmUuids);
      const stored = [...found.values()].flatMap(({ backups, unreadable }) => [
        ...backups.map(({ id }) => id),
        ...unreadable.map(({ backupId }) => backupId),
      ]);
      const elsewhere = await catalog.rescans.elsewhere(repository, stored);
      const copiesOf = Map.groupBy(await catalog.copies.list({ vms: vmUuids, repository }), ({ vmUuid }) => vmUuid);
      const repositories = new Map(
        (await catalog.repositories.list()).flatMap(({ id, name }) => (name === repository ? [] : [[id, name]])),
      );
      const recordsOf = Map.groupBy(records, ({ backup }) => backup.vm.uuid);
      const known = new Set(records.map(({ backup }) => backup.id));
      const judged = await Promise.all(
        vmUuids.map(async (uuid) => {
          const nothing: FoundVm = { uuid, backups: [], unreadable: [], sealed: [], surplus: [] };
          const ofVm = recordsOf.get(uuid) ?? [];
          const checkpoints = ofVm.length === 0 ? [] : await catalog.checkpoints.list(uuid);
          const knownCopies = { copies: copiesOf.get(uuid) ?? [], elsewhere, own: known, repositories };
          const { own, copied } = partCopies(found.get(uuid) ?? nothing, knownCopies);
          const before = { records: ofVm, chains: chains.get(uuid) ?? [], checkpoints, elsewhere };
          return { own: judgeRescan(own, before, repository), copied: judgeCopies(copied, knownCopies) };
        }),
      );
      const findings = judged.flatMap(({ own, copied }) => [...own.findings, ...copied.findings]);
      if (!dryRun) {
        await catalog.rescans.apply(
          judged.flatMap(({ own, copied }) => [own.rescanned, ...copied.originals]),
          run,
        );
        for (const { copied } of judged) await applyCopies(repository, copied);
        for (const { sort, vmUuid, backupId, message } of findings) {
          const isNews = backupId !== null && known.has(backupId);
          if (!MARKED.includes(sort) || !isNews) continue;
          const was = records.find(({ backup }) => backup.id === backupId);
          if (was?.damage != null) continue;
          await catalog.events.record({
            at: new Date().toISOString(),
            kind: 'backup-damaged',
            vmUuid,
            backupId,
            message: `backup ${backupId} of VM ${was?.backup.vm.name ?? vmUuid} cannot be relied on: ${message}`,
          });
        }
      }
      return {
        ...summaryOf(findings),
        vms: vmUuids.length,
        manifests: [...found.values()].reduce((sum, { backups }) => sum + backups.length, 0),
        added: judged.reduce((sum, { own, copied }) => sum + own.added + copied.added, 0),
        changed: judged.reduce((sum, { own, copied }) => sum + own.changed + copied.changed, 0),
        surplusBytes: [...found.values()]
          .flatMap(({ surplus }) => surplus)
          .reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      };
    },

    /** What the whole rescan came to, for those who were not there. */
    async recordRescan(repository: string, summary: RescanSummary): Promise<void> {
      const { vms, added, changed, findings } = summary;
      const told = rescanSort.options.flatMap((sort) => (findings[sort] === 0 ? [] : [`${findings[sort]} ${sort}`]));
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'repository-rescanned',
        message: `repository ${repository}: ${vms} VMs, ${added} backups added, ${changed} changed${told.length === 0 ? '' : `; ${told.join(', ')}`}`,
        detail: summary,
      });
    },
  };
};

/** A VM with very many backups comes in several parts. */
function joined(parts: readonly FoundVm[]): Map<string, FoundVm> {
  const whole = new Map<string, FoundVm>();
  for (const part of parts) {
    const before = whole.get(part.uuid);
    whole.set(part.uuid, before === undefined ? part : { ...before, backups: [...before.backups, ...part.backups] });
  }
  return whole;
}

function summaryOf(told: RescanFinding[]): RescanSummary {
  const findings = emptyRescan().findings;
  for (const { sort } of told) findings[sort] += 1;
  return addRescans(emptyRescan(), { ...emptyRescan(), findings, told });
}
