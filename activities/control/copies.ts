import type { BackupRecord, CopyRecord } from '../../catalog/contract.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import {
  decryptionProblem,
  type BackupToCopy,
  type BlockedCopy,
  type CopiedBackup,
  type CopyPlan,
} from '../../schemas/copy.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { ControlDependencies } from './dependencies.ts';
import { PRESENT } from './delete-backup.ts';
import { hasFiles, planCopies } from './plan-copies.ts';
import { repositoryHosts } from './repository-hosts.ts';
import { admissionToWork, offeringOf, recordOf } from './work-on-backup.ts';

const DEFAULT_TIME_LIMIT_SECONDS = 43_200;
/** What one history copies; then the rest is planned anew. */
const STEPS_AT_ONCE = 100;

export interface CopyOrder {
  to: string;
  /** One backup, or all of a VM. */
  what: { backupId: string } | { vm: string };
  from?: string | undefined;
  /** Copies may be plain though their originals are encrypted. */
  decrypt?: boolean | undefined;
}

export interface PlannedCopies {
  vm: { uuid: string; name: string };
  to: string;
  /** Parents before their children. */
  steps: BackupToCopy[];
  revived: string[];
  present: number;
  blocked: BlockedCopy[];
  /** More follow. */
  left: number;
}

export interface PlannedCopy {
  plan: CopyPlan;
  admission: AdmissionRequest;
  /** Hosts to try, in this order. */
  hosts: string[];
  heartbeatSeconds: number;
}

type Run = { workflowId: string; runId: string };

export const createCopies = ({ catalog, runs, heartbeatSeconds }: ControlDependencies) => {
  async function repositoryNamed(name: string): Promise<RepositoryRecord> {
    const found = await catalog.repositories.find(name);
    if (found !== undefined) return found;
    throw new HoldfastError('RepositoryNotFound', `repository: ${name} is not known; see: holdfast repo ls`);
  }

  async function vmNamed(nameOrUuid: string): Promise<{ uuid: string; name: string }> {
    const [found, ...others] = await catalog.vms.findByNameOrUuid(nameOrUuid);
    if (found === undefined)
      throw new HoldfastError('VmNotFound', `VM ${nameOrUuid} is not known; see: holdfast vm ls`);
    if (others.length === 0) return { uuid: found.uuid, name: found.name };
    const uuids = [found, ...others].map(({ uuid }) => uuid).join(', ');
    throw new HoldfastError('VmAmbiguous', `several VMs are called ${nameOrUuid}: ${uuids}; name one by its UUID`);
  }

  function requireCopyable(record: BackupRecord, to: string): void {
    const { id, vm, state, repository } = record.backup;
    if (repository === to) {
      throw new HoldfastError('InvalidRequest', `to: backup ${id} lies in repository ${to} already`);
    }
    if (!hasFiles(record)) {
      throw new HoldfastError(
        'BackupNotCopyable',
        `backup ${id} of VM ${vm.name} is ${state}: there is nothing to copy`,
      );
    }
  }

  async function plannedFor(
    vm: { uuid: string; name: string },
    to: RepositoryRecord,
    options: { only?: string; from?: string | undefined; decrypt: boolean; without: string[] },
  ): Promise<PlannedCopies> {
    const backups = await catalog.backups.records({ vm: vm.uuid, states: PRESENT });
    const copies = await catalog.copies.list({ vm: vm.uuid, repository: to.name });
    const refused = new Map<string, string>();
    for (const repository of await catalog.repositories.list()) {
      const problem = decryptionProblem(repository, to, options);
      if (problem !== undefined) refused.set(repository.name, problem);
    }
    const offering = (await catalog.vms.find(vm.uuid))?.offering ?? null;
    const protecting = offering === null ? undefined : await catalog.offerings.find(offering);
    const { steps, ...planned } = planCopies(backups, copies, {
      to: to.name,
      refused,
      ...(options.only === undefined ? {} : { only: options.only }),
      ...(options.from === undefined ? {} : { from: options.from }),
      rules: protecting?.copyTo === to.name ? protecting.copyRetention : null,
      without: new Set(options.without),
      now: new Date(),
    });
    const left = Math.max(0, steps.length - STEPS_AT_ONCE);
    return { vm, to: to.name, ...planned, steps: steps.slice(0, STEPS_AT_ONCE), left };
  }

  return {
    /**
     * What it takes that a backup, or all of a VM, have a copy in the repository.
     * @param without ids that are not to be tried again
     * @throws RepositoryNotFound, BackupNotFound, BackupNotCopyable, VmNotFound, VmAmbiguous
     */
    async planCopies({ to, what, from, decrypt = false }: CopyOrder, without: string[]): Promise<PlannedCopies> {
      const target = await repositoryNamed(to);
      if (from !== undefined) await repositoryNamed(from);
      if (from === to) throw new HoldfastError('InvalidRequest', `from: ${to} is the repository that gets the copies`);
      if ('vm' in what) return await plannedFor(await vmNamed(what.vm), target, { from, decrypt, without });
      const record = await recordOf(catalog, what.backupId);
      requireCopyable(record, to);
      return await plannedFor(record.backup.vm, target, { only: what.backupId, decrypt, without });
    },

    /** Hidden copies whose files are there are listed again. */
    async reviveCopies(backupIds: string[], repository: string): Promise<void> {
      for (const id of backupIds) await catalog.copies.setState(id, repository, 'Copied', ['Removed']);
    },

    /**
     * What the copy of one backup takes.
     * @throws BackupNotFound, BackupNotCopyable, RepositoryNotFound, EncryptionMismatch
     */
    async planCopy(
      operationId: string,
      backupId: string,
      to: string,
      timeLimitSeconds: number | null,
      run: Run,
      decrypt = false,
    ): Promise<PlannedCopy> {
      const record = await recordOf(catalog, backupId);
      const { backup } = record;
      requireCopyable(record, to);
      const from = await repositoryNamed(backup.repository);
      const target = await repositoryNamed(to);
      const problem = decryptionProblem(from, target, { decrypt });
      if (problem !== undefined) throw new HoldfastError('EncryptionMismatch', problem);
      const offering = await offeringOf(catalog, record);
      return {
        plan: {
          operationId,
          backupId,
          vm: backup.vm,
          from,
          to: target,
          ...(decrypt ? { decrypt } : {}),
          timeLimitSeconds: timeLimitSeconds ?? DEFAULT_TIME_LIMIT_SECONDS,
        },
        admission: admissionToWork(record, offering, { operationId, operation: 'copyBackup', ...run, repository: to }),
        hosts: await repositoryHosts(catalog, [backup.host]),
        heartbeatSeconds,
      };
    },

    /**
     * Nobody else copies the backup there from now on. Asked once nothing can change the chain. False when somebody else
     * came to the end of it meanwhile.
     * @throws BackupNotCopyable
     */
    async beginCopy({ operationId, backupId, vm, to }: CopyPlan, run: Run): Promise<boolean> {
      const record = await recordOf(catalog, backupId);
      requireCopyable(record, to.name);
      const { parentId } = record.backup;
      const parent = parentId === null ? undefined : await catalog.copies.find(parentId, to.name);
      if (parentId !== null && parent?.state !== 'Copied' && parent?.state !== 'Removed') {
        throw new HoldfastError(
          'BackupNotCopyable',
          `backup ${backupId} of VM ${vm.name} is built on ${parentId}, whose copy is not in ${to.name} any more; copy it again`,
        );
      }
      const copying = { backupId, repository: to.name, operationId, ...run };
      let holder = await catalog.copies.begin(copying);
      if (holder === 'there') return false;
      if (holder !== null && !(await runs.isRunning(holder.workflowId, holder.runId))) {
        await catalog.copies.end(backupId, to.name, holder.operationId, ENDED);
        holder = await catalog.copies.begin(copying);
      }
      if (holder === null || holder === 'there') return holder === null;
      throw new HoldfastError(
        'BackupNotCopyable',
        `backup ${backupId} of VM ${vm.name} is being copied to ${to.name} by ${holder.workflowId}`,
      );
    },

    /** The copy's manifest is written. Of a hidden original the copy is hidden too. Repeatable. */
    async commitCopy({ operationId, backupId, vm, to }: CopyPlan, copied: CopiedBackup): Promise<void> {
      const { type, parentId, disks, writtenBytes } = copied;
      const copiedAt = new Date().toISOString();
      const state = (await recordOf(catalog, backupId)).backup.state === 'Removed' ? 'Removed' : 'Copied';
      await catalog.copies.complete(backupId, to.name, operationId, { state, type, parentId, disks, copiedAt });
      await catalog.events.record({
        at: copiedAt,
        kind: 'backup-copied',
        vmUuid: vm.uuid,
        backupId,
        message: `backup ${backupId} of VM ${vm.name} copied to ${to.name}, ${writtenBytes} bytes written`,
      });
    },

    /** Nothing of the copy is there: because of a failure, or of a cancellation when it is null. Repeatable. */
    async endCopy(plan: CopyPlan, failure: { type: string; message: string } | null): Promise<void> {
      const { operationId, backupId, vm, to } = plan;
      await catalog.copies.end(backupId, to.name, operationId, failure);
      if (failure === null) return;
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'copy-failed',
        vmUuid: vm.uuid,
        backupId,
        message: `backup ${backupId} of VM ${vm.name} has no copy in ${to.name}: ${failure.type}: ${failure.message}`,
      });
    },

    /** A run that was ended by force, and what it left is undone. Repeatable. */
    async copyEnded(backupId: string, repository: string, operationId: string): Promise<void> {
      await catalog.copies.end(backupId, repository, operationId, ENDED);
    },

    /** Repositories with a listed copy of a backup. */
    async copiesOf(backupId: string): Promise<string[]> {
      const copies = await catalog.copies.list({ backupIds: [backupId], states: ['Copied'] });
      return copies.map(({ repository }) => repository);
    },

    /**
     * VMs with backups that have no copy in the repository, page by page: those of one repository after the other, by UUID.
     * `after` is where the next page begins; null when there is none.
     */
    async vmsToCopy(
      { to, from, decrypt = false }: { to: string; from: string | null; decrypt?: boolean | undefined },
      after: CopyCursor | null,
      limit: number,
    ): Promise<{ vms: { uuid: string; name: string }[]; after: CopyCursor | null }> {
      const target = await repositoryNamed(to);
      if (from !== null) await repositoryNamed(from);
      const sources = (await catalog.repositories.list())
        .map(({ name }) => name)
        .filter((name) => name !== to && (from === null || name === from) && name >= (after?.repository ?? ''));
      for (const repository of sources) {
        const start = repository === after?.repository ? after.vm : null;
        const uuids = await catalog.backups.vmsIn(repository, { after: start, limit });
        const last = uuids.at(-1);
        if (last === undefined) continue;
        const vms: { uuid: string; name: string }[] = [];
        for (const uuid of uuids) {
          const name = (await catalog.vms.find(uuid))?.name ?? uuid;
          const planned = await plannedFor({ uuid, name }, target, { from: repository, decrypt, without: [] });
          if (planned.steps.length + planned.blocked.length > 0) vms.push({ uuid, name });
        }
        return { vms, after: { repository, vm: last } };
      }
      return { vms: [], after: null };
    },
  };
};

export interface CopyCursor {
  repository: string;
  vm: string;
}

const ENDED: NonNullable<CopyRecord['failure']> = { type: 'Terminated', message: 'its run was ended by force' };
