import type { BackupRecord } from '../../catalog/contract.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { validateBackupRequest, type ValidateBackupRequest } from '../../schemas/requests.ts';
import type { ValidationStep } from '../../schemas/states.ts';
import { reasonOf, type HashProblem, type ValidationPlan, type ValidationResult } from '../../schemas/validation.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { ControlDependencies } from './dependencies.ts';
import { admissionToWork, offeringOf, recordOf, repositoryOf } from './work-on-backup.ts';

/** What is done where no offering says more. */
const DEFAULT_STEPS: ValidationStep[] = ['hash', 'boot', 'screenshot'];
const ORDER: ValidationStep[] = ['hash', 'boot', 'screenshot', 'command'];
const BOOT_TIMEOUT_SECONDS = 240;

export interface ResolvedValidation {
  plan: ValidationPlan;
  admission: AdmissionRequest;
  /** Hosts to try, in this order. */
  hosts: string[];
  heartbeatSeconds: number;
}

export const createValidation = ({ catalog, runs, heartbeatSeconds }: ControlDependencies) => {
  async function descendantsOf(id: string): Promise<string[]> {
    const children = await catalog.backups.children(id);
    const below = await Promise.all(children.map(({ backup }) => descendantsOf(backup.id)));
    return [...children.map(({ backup }) => backup.id), ...below.flat()];
  }

  /** The damaged backups themselves, and all that are built on them. */
  async function markDamage(problems: HashProblem[]): Promise<void> {
    const owners = new Map<string, string>();
    for (const { backupId, message } of problems) owners.set(backupId, owners.get(backupId) ?? message);
    for (const owner of owners.keys()) {
      const built = (await descendantsOf(owner)).filter((id) => !owners.has(id));
      await catalog.validations.setDamage(built, `built on backup ${owner}, which is not valid`);
    }
    for (const [owner, message] of owners) await catalog.validations.setDamage([owner], message);
  }

  /** What follows from a backup that is not valid: an event, and the end of its chain where that is wanted or due. */
  async function notValid(plan: ValidationPlan, { backup }: BackupRecord, result: ValidationResult): Promise<void> {
    const hashFailed = result.steps.some(({ step, result: outcome }) => step === 'hash' && outcome === 'failed');
    const chain = await catalog.backups.lastChain(plan.vm.uuid, backup.repository);
    const ends = plan.endChain && chain?.open === true && chain.id === backup.chainId;
    if (ends) {
      await catalog.backups.endChain(chain.id, hashFailed ? 'parent-damaged' : 'parent-not-valid');
      await catalog.checkpoints.retire(plan.vm.uuid, backup.repository);
    }
    await catalog.events.record({
      at: result.validatedAt,
      kind: 'backup-not-valid',
      vmUuid: plan.vm.uuid,
      backupId: plan.backupId,
      message:
        `backup ${plan.backupId} of VM ${plan.vm.name} is not valid: ${reasonOf(result)}` +
        (ends ? '; its chain is ended, the next backup is full' : ''),
    });
  }

  return {
    /**
     * Fills in every default of a validation: the request first, then the VM's offering, then the installation's.
     * @throws BackupNotFound, BackupNotRestorable, RepositoryNotFound, HostNotFound
     */
    async planValidation(
      validationId: string,
      asked: ValidateBackupRequest,
      run: { workflowId: string; runId: string },
    ): Promise<ResolvedValidation> {
      const { backupId, steps, command, host } = validateBackupRequest.parse(asked);
      const record = await recordOf(catalog, backupId);
      const { backup } = record;
      if (backup.state !== 'BackedUp' && backup.state !== 'Restoring') {
        throw new HoldfastError(
          'BackupNotRestorable',
          `backup ${backupId} is ${backup.state}: there is nothing to validate`,
        );
      }
      const repository = await repositoryOf(catalog, record);
      const offering = await offeringOf(catalog, record);
      const wanted =
        steps ?? (offering !== undefined && offering.validation.length > 0 ? offering.validation : DEFAULT_STEPS);
      const known = (await catalog.hosts.list()).map(({ name }) => name);
      if (host !== undefined && !known.includes(host)) {
        throw new HoldfastError('HostNotFound', `host: ${host} is not known; see: holdfast host ls`);
      }
      const hosts = host === undefined ? [backup.host, ...known.filter((name) => name !== backup.host)] : [host];
      return {
        plan: {
          validationId,
          backupId,
          vm: backup.vm,
          repository,
          // A command asked for is run, whether or not its step was named.
          steps: ORDER.filter((step) => wanted.includes(step) || (step === 'command' && command !== undefined)),
          command: command ?? offering?.validationCommand ?? null,
          bootTimeoutSeconds: offering?.bootTimeoutSeconds ?? BOOT_TIMEOUT_SECONDS,
          endChain: offering?.endChainOnNotValid ?? false,
          ...run,
        },
        admission: admissionToWork(record, offering, {
          operationId: validationId,
          operation: 'validateBackup',
          ...run,
        }),
        hosts,
        heartbeatSeconds,
      };
    },

    /** The backup is marked as being validated. @throws ValidationRunning, BackupNotRestorable */
    async beginValidation({ backupId, vm, workflowId, runId }: ValidationPlan): Promise<void> {
      const state = (await catalog.backups.find(backupId))?.backup.state;
      if (state !== 'BackedUp' && state !== 'Restoring') {
        throw new HoldfastError(
          'BackupNotRestorable',
          `backup ${backupId} is ${state ?? 'gone'}: there is nothing to validate`,
        );
      }
      let holder = await catalog.validations.begin(backupId, { workflowId, runId });
      if (holder !== null && !(await runs.isRunning(holder.workflowId, holder.runId))) {
        await catalog.validations.restore(backupId, holder);
        holder = await catalog.validations.begin(backupId, { workflowId, runId });
      }
      if (holder === null) return;
      throw new HoldfastError(
        'ValidationRunning',
        `backup ${backupId} of VM ${vm.name} is being validated by ${holder.workflowId}`,
      );
    },

    /** The run ends without a result: the backup's state is what it was. Repeatable. */
    async restoreValidation({ backupId, workflowId, runId }: ValidationPlan): Promise<void> {
      await catalog.validations.restore(backupId, { workflowId, runId });
    },

    /** Notes what was found, and what follows from it. */
    async commitValidation(plan: ValidationPlan, result: ValidationResult, problems: HashProblem[]): Promise<Backup> {
      const record = await catalog.backups.find(plan.backupId);
      if (record === undefined)
        throw new HoldfastError('BackupNotFound', `backup ${plan.backupId} is not in the catalog`);
      const hash = result.steps.find(({ step }) => step === 'hash');
      if (hash?.result === 'failed') await markDamage(problems);
      if (hash?.result === 'passed') await catalog.validations.setDamage([plan.backupId], null); // every byte it needs is right
      if (result.state === 'NotValid' && record.backup.validation === 'Validating')
        await notValid(plan, record, result);
      await catalog.validations.complete(plan.backupId, result);
      return { ...record.backup, validation: result.state };
    },

    /** Backups that are marked as being validated though the run has ended; with `undo` they get their former state. */
    async endedValidations(undo: boolean): Promise<string[]> {
      const found: string[] = [];
      for (const { backupId, vmName, ...run } of await catalog.validations.running()) {
        if (await runs.isRunning(run.workflowId, run.runId)) continue;
        found.push(`validation of backup ${backupId} of VM ${vmName}: its run ${run.workflowId} has ended`);
        if (undo) await catalog.validations.restore(backupId, run);
      }
      return found;
    },
  };
};
