import type { BackupRecord } from '../../catalog/contract.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type {
  CheckedFile,
  CheckedRepository,
  CheckPlace,
  CheckPlan,
  CheckProgress,
  FileToCheck,
} from '../../schemas/check.ts';
import type { CheckRepositoryRequest } from '../../schemas/requests.ts';
import type { Schedule } from '../../schemas/schedule.ts';
import type { BackupState } from '../../schemas/states.ts';
import { copiesAsBackups } from './copies-as-backups.ts';
import type { ControlDependencies } from './dependencies.ts';
import { damageText } from '../../operations/damage-text.ts';
import { marksOf } from './mark-damage.ts';
import { repositoryHosts } from './repository-hosts.ts';

const HAVE_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed', 'Error'];
/** One answer of a host: what a killed worker reads again, at most. */
const BATCH_BYTES = 1024 ** 3;
const BATCH_FILES = 64;
const SLOW_BATCH_SECONDS = 30;

export const createCheck = ({ catalog, heartbeatSeconds }: ControlDependencies) => {
  /** The VM's backups that have files in the repository: originals, and copies of others. */
  async function recordsOf(
    repository: string,
    vmUuid: string,
  ): Promise<{ records: BackupRecord[]; copied: ReadonlySet<string> }> {
    const originals = await catalog.backups.records({ vms: [vmUuid], repository, states: HAVE_FILES });
    const copies = (await copiesAsBackups(catalog, vmUuid, repository)).filter(({ backup }) =>
      HAVE_FILES.includes(backup.state),
    );
    return {
      records: [...originals.filter(({ backup }) => backup.instant !== null), ...copies],
      copied: new Set(copies.map(({ backup }) => backup.id)),
    };
  }

  /** Marks what is built on damaged files of a VM, and takes marks away that hold no more. */
  async function settle(repository: string, vmUuid: string, since: string): Promise<{ healed: string[] }> {
    const { records, copied } = await recordsOf(repository, vmUuid);
    const ids = records.map(({ backup }) => backup.id);
    const nameOf = (id: string): string => (copied.has(id) ? `copy in ${repository} of backup ${id}` : `backup ${id}`);
    const verified = await catalog.checks.verifiedFiles(repository, ids, since);
    const { set, heal } = marksOf(records, await catalog.checks.damagedFiles(repository, ids), verified);
    for (const { id, damage } of set) {
      const before = records.find(({ backup }) => backup.id === id);
      if (copied.has(id)) await catalog.copies.setDamage(repository, [id], damage);
      else await catalog.validations.setDamage([id], damage);
      if (before?.damage != null) continue; // it is known to be damaged
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: copied.has(id) ? 'copy-damaged' : 'backup-damaged',
        vmUuid,
        backupId: id,
        message: `${nameOf(id)} of VM ${before?.backup.vm.name ?? vmUuid} cannot be relied on: ${damageText(damage)}`,
      });
    }
    await catalog.checks.heal(repository, heal);
    for (const id of heal) {
      const name = records.find(({ backup }) => backup.id === id)?.backup.vm.name ?? vmUuid;
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: copied.has(id) ? 'copy-healed' : 'backup-healed',
        vmUuid,
        backupId: id,
        message: `${nameOf(id)} of VM ${name} can be relied on again: its stored bytes are right`,
      });
    }
    return { healed: heal };
  }

  return {
    /** What is to be read, and by whom. @throws RepositoryNotFound, VmNotFound, VmAmbiguous */
    async planCheck(
      checkId: string,
      asked: CheckRepositoryRequest,
      startedAt: string,
    ): Promise<{ plan: CheckPlan; hosts: string[]; heartbeatSeconds: number }> {
      const repository = await catalog.repositories.find(asked.repository);
      if (repository === undefined) {
        throw new HoldfastError(
          'RepositoryNotFound',
          `repository: ${asked.repository} is not known; see: holdfast repo ls`,
        );
      }
      const vmUuid = asked.vm === undefined ? null : await vmOf(asked.vm, repository.name);
      const before = new Date(Date.parse(startedAt) - (asked.sinceAgeSeconds ?? 0) * 1000).toISOString();
      const filter = { repository: repository.name, vmUuid, before };
      const everything = await catalog.checks.count({ ...filter, before: startedAt });
      const share = Math.ceil((everything.files * (asked.samplePercent ?? 100)) / 100);
      const { files, bytes } = await catalog.checks.count(filter, share);
      const rateBytesPerSecond = asked.rateBytesPerSecond ?? null;
      return {
        plan: { checkId, repository, vmUuid, startedAt, before, files, bytes, rateBytesPerSecond },
        hosts: await repositoryHosts(catalog, []),
        heartbeatSeconds,
      };
    },

    /** The files whose turn is next: as many as are read at once. */
    async filesToCheck(plan: CheckPlan, after: CheckPlace | null, atMost: number): Promise<FileToCheck[]> {
      const { repository, vmUuid, before, rateBytesPerSecond: rate } = plan;
      const room = Math.min(BATCH_BYTES, (rate ?? Infinity) * SLOW_BATCH_SECONDS);
      const files = await catalog.checks.files(
        { repository: repository.name, vmUuid, before },
        { after, limit: Math.min(BATCH_FILES, atMost) },
      );
      let bytes = 0;
      return files.filter(({ storedBytes }, index) => (bytes += storedBytes) <= room || index === 0);
    },

    /** What it takes that nobody deletes or rewrites the file while it is looked at once more. */
    async admissionToCheck(
      operationId: string,
      { backupId }: FileToCheck,
      run: { workflowId: string; runId: string },
    ): Promise<AdmissionRequest> {
      const chainId = (await catalog.backups.find(backupId))?.backup.chainId ?? backupId;
      return {
        operationId,
        operation: 'checkRepository',
        ...run,
        vmUuid: null,
        chain: { id: chainId, mode: 'shared' },
        host: null,
        repository: null,
        tenant: 'default',
        priority: 4,
      };
    },

    /** What a scheduled check reads: what would else be older than promised before the next run. */
    async scheduledCheckRequest({ name, task, longestGapSeconds }: Schedule): Promise<CheckRepositoryRequest> {
      if (task.kind !== 'check') throw new HoldfastError('InvalidRequest', `schedule ${name} checks no repository`);
      return {
        repository: task.repository,
        sinceAgeSeconds: Math.max(0, task.verifyWithinSeconds - (longestGapSeconds ?? 0)),
        ...(task.samplePercent === null ? {} : { samplePercent: task.samplePercent }),
        ...(task.rateBytesPerSecond === null ? {} : { rateBytesPerSecond: task.rateBytesPerSecond }),
        requestedBy: `schedule ${name}`,
      };
    },

    /** It was neither deleted nor swapped since it was chosen. */
    async stillStored({ backupId, file }: FileToCheck, repository?: string): Promise<boolean> {
      const record = await catalog.backups.find(backupId);
      if (repository !== undefined && record?.backup.repository !== repository) {
        const copy = await catalog.copies.find(backupId, repository);
        const isThere = copy?.state === 'Copied' || copy?.state === 'Removed';
        return isThere && copy.disks.some((disk) => disk.file === file);
      }
      return (
        record !== undefined &&
        HAVE_FILES.includes(record.backup.state) &&
        record.disks.some((disk) => disk.file === file)
      );
    },

    /** Notes what was found of files; those that are damaged are marked at once, with all that is built on them. */
    async noteChecked({ repository, startedAt }: CheckPlan, checked: CheckedFile[]): Promise<void> {
      const known = checked.filter(({ outcome }) => outcome !== 'gone');
      await catalog.checks.note(
        repository.name,
        known.map(({ file: { backupId, target, file }, message }) => ({
          backupId,
          target,
          file,
          damage: message ?? null,
        })),
        new Date().toISOString(),
      );
      const vms = new Set(known.flatMap(({ outcome, file }) => (outcome === 'damaged' ? [file.vm.uuid] : [])));
      for (const vmUuid of vms) await settle(repository.name, vmUuid, startedAt);
    },

    /** The check is over: marks that hold no more are taken away, and it is told what came of it. */
    async endCheck({ repository, vmUuid, startedAt }: CheckPlan, progress: CheckProgress): Promise<CheckedRepository> {
      const marked = await catalog.checks.marked(repository.name);
      const healed: string[] = [];
      for (const vm of new Set(marked.map((one) => one.vmUuid))) {
        if (vmUuid === null || vm === vmUuid) healed.push(...(await settle(repository.name, vm, startedAt)).healed);
      }
      const { files, bytes, damagedCount, damaged } = progress;
      const result: CheckedRepository = {
        repository: repository.name,
        files,
        bytes,
        damagedFiles: damagedCount,
        damaged,
        healed,
        unverifiedSince: await catalog.checks.unverifiedSince(repository.name, vmUuid),
      };
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'repository-checked',
        vmUuid,
        message:
          `repository ${repository.name}: ${files} files, ${bytes} bytes compared with their hashes; ` +
          `${damagedCount === 0 ? 'none' : damagedCount} damaged${healed.length === 0 ? '' : `, ${healed.length} backups right again`}`,
        detail: result,
      });
      return result;
    },
  };

  /** By UUID or name, of VMs that have backups there: a VM that is on no host any more is one too. */
  async function vmOf(vm: string, repository: string): Promise<string> {
    const backups = await catalog.backups.list({ vm, all: true });
    const copied = await catalog.copies.list({ repository, backupIds: backups.map(({ id }) => id) });
    const copies = new Set(copied.map(({ backupId }) => backupId));
    const there = backups.filter((backup) => backup.repository === repository || copies.has(backup.id));
    const [uuid, ...others] = new Set(there.map((backup) => backup.vm.uuid));
    if (uuid === undefined) {
      throw new HoldfastError('VmNotFound', `vm: ${vm} has no backup in repository ${repository}`);
    }
    if (others.length === 0) return uuid;
    throw new HoldfastError('VmAmbiguous', `vm: ${vm} is ${[uuid, ...others].join(', ')}; give the UUID`);
  }
};
