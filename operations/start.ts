import type { Client, WorkflowHandle } from '@temporalio/client';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import type {
  ApplyRetentionRequest,
  ConsolidateDisksRequest,
  CompressBackupRequest,
  CopyBackupRequest,
  CopyRepositoryRequest,
  DeleteBackupRequest,
  FinishChainRequest,
  MergeBackupsRequest,
  CheckRepositoryRequest,
  RescanRepositoryRequest,
  RestoreDiskRequest,
  RestoreVmRequest,
  TakeBackupRequest,
  ValidateBackupRequest,
} from '../schemas/requests.ts';
import { SCHEDULE_WORKFLOWS, type Schedule } from '../schemas/schedule.ts';
import { runId } from './run-id.ts';

/** Starts a backup; its `workflowId` is the job's id. */
export const startTakeBackup = async (client: Client, request: TakeBackupRequest): Promise<WorkflowHandle> =>
  await start(client, 'takeBackup', request.vm, request);

/** @param vmName name the VM had when it was backed up; it names the job */
export const startRestoreVm = async (
  client: Client,
  request: RestoreVmRequest,
  vmName: string,
): Promise<WorkflowHandle> => await start(client, 'restoreVm', request.as ?? vmName, request);

/** One disk of a backup as a further disk of a VM. */
export const startRestoreDisk = async (client: Client, request: RestoreDiskRequest): Promise<WorkflowHandle> =>
  await start(client, 'restoreDisk', request.toVm, request);

/** @param vmName the VM of the backup; it names the job */
export const startDeleteBackup = async (
  client: Client,
  request: DeleteBackupRequest,
  vmName: string,
): Promise<WorkflowHandle> => await start(client, 'deleteBackup', vmName, request);

/** @param vmName the VM of the backup; it names the job */
export const startValidateBackup = async (
  client: Client,
  request: ValidateBackupRequest,
  vmName: string,
): Promise<WorkflowHandle> => await start(client, 'validateBackup', vmName, request);
/** @param vmName the VM of the backup; it names the job */
export const startCompressBackup = async (
  client: Client,
  request: CompressBackupRequest,
  vmName: string,
): Promise<WorkflowHandle> => await start(client, 'compressBackup', vmName, request);

/** @param vmName the VM of the backup; it names the job */
export const startCopyBackup = async (
  client: Client,
  request: CopyBackupRequest,
  vmName: string,
): Promise<WorkflowHandle> => await start(client, 'copyBackup', vmName, request);

export const startCopyRepository = async (client: Client, request: CopyRepositoryRequest): Promise<WorkflowHandle> =>
  await start(client, 'copyRepository', request.vm ?? request.to, request);

export const startMergeBackups = async (client: Client, request: MergeBackupsRequest): Promise<WorkflowHandle> =>
  await start(client, 'mergeBackups', request.vm, request);

export const startApplyRetention = async (client: Client, request: ApplyRetentionRequest): Promise<WorkflowHandle> =>
  await start(client, 'applyRetention', request.vm ?? 'all', request);

export const startFinishChain = async (client: Client, request: FinishChainRequest): Promise<WorkflowHandle> =>
  await start(client, 'finishChain', request.vm, request);

/** Rebuilds what the catalog knows of a repository. */
export const startRescanRepository = async (
  client: Client,
  request: RescanRepositoryRequest,
): Promise<WorkflowHandle> => await start(client, 'rescanRepository', request.repository, request);

/** Compares stored bytes with their hashes. */
export const startCheckRepository = async (client: Client, request: CheckRepositoryRequest): Promise<WorkflowHandle> =>
  await start(client, 'checkRepository', request.repository, request);

/** One run of a schedule, now. */
export const startSchedule = async (client: Client, { name, task }: Schedule): Promise<WorkflowHandle> =>
  await start(client, SCHEDULE_WORKFLOWS[task.kind], name, { schedule: name });

/** @param jobId the id every run of this consolidation has; one that runs already is found, not started again */
export const startConsolidateDisks = async (
  client: Client,
  request: ConsolidateDisksRequest,
  jobId: string,
): Promise<WorkflowHandle> =>
  await client.workflow.start('consolidateDisks', {
    taskQueue: CONTROL_QUEUE,
    workflowId: jobId,
    workflowIdConflictPolicy: 'USE_EXISTING',
    args: [request],
  });

const start = async (client: Client, operation: string, subject: string, request: object): Promise<WorkflowHandle> =>
  await client.workflow.start(operation, {
    taskQueue: CONTROL_QUEUE,
    workflowId: runId(operation, subject),
    args: [request],
  });
