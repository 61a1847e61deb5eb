import type { Client } from '@temporalio/client';
import { z } from 'zod';
import type { Catalog } from '../catalog/contract.ts';
import { withRestoring } from '../operations/backup-states.ts';
import { findBackup } from '../operations/find-backup.ts';
import { cancelJob, describeJob, listJobs } from '../operations/jobs.ts';
import { startRestoreDisk, startRestoreVm, startTakeBackup, startValidateBackup } from '../operations/start.ts';
import { backup } from '../schemas/backup.ts';
import { vmRecord } from '../schemas/catalog.ts';
import { shownConsolidation, showConsolidation } from '../schemas/consolidation.ts';
import { vmName } from '../schemas/names.ts';
import { restoreDiskRequest, restoreVmRequest, takeBackupRequest, validateBackupRequest } from '../schemas/requests.ts';

/** What a route works with. */
export interface Services {
  catalog: Catalog;
  /** Throws HoldfastError TemporalUnreachable. */
  client: () => Promise<Client>;
}

export interface Route {
  method: 'GET' | 'POST';
  /** As URLPattern takes it: `/v1/jobs/:id`. */
  path: string;
  summary: string;
  status: 200 | 202;
  query?: z.ZodObject;
  body?: z.ZodType;
  answer: z.ZodType;
  handle: (
    services: Services,
    input: { parameters: Record<string, string | undefined>; query: unknown; body: unknown },
  ) => Promise<unknown>;
}

const job = z.object({
  id: z.string(),
  operation: z.string(),
  vm: z.string().nullable(),
  status: z.string(),
  step: z.string().nullable(),
  waitingFor: z.string().nullable(),
  startedAt: z.string(),
  endedAt: z.string().nullable(),
});
const jobDetails = job.extend({
  result: z.unknown(),
  failure: z.object({ type: z.string(), message: z.string() }).nullable(),
});
const started = z.object({ jobId: z.string() });
const backupQuery = z.strictObject({ vm: vmName.optional() });
const jobQuery = z.strictObject({ running: z.enum(['true', 'false']).optional() });
const backupId = z.object({
  id: z.string().regex(/^[0-9a-f-]{4,36}$/, 'must be a backup id, or at least four characters of its beginning'),
});
const jobId = z.object({ id: z.string().min(1).max(1000) });

/** Every request there is but /healthz and /openapi.json; the requests' schemas are those of the workflows. */
export const routes: readonly Route[] = [
  {
    method: 'GET',
    path: '/v1/vms',
    summary: 'VMs of all hosts, as last seen',
    status: 200,
    answer: z.array(vmRecord),
    handle: ({ catalog }) => catalog.vms.list(),
  },
  {
    method: 'GET',
    path: '/v1/backups',
    summary: 'Backups, newest first',
    status: 200,
    query: backupQuery,
    answer: z.array(backup),
    handle: async ({ catalog }, { query }) => {
      const { vm } = backupQuery.parse(query);
      return await withRestoring(catalog, await catalog.backups.list(vm === undefined ? {} : { vm }));
    },
  },
  {
    method: 'GET',
    path: '/v1/backups/:id',
    summary: 'One backup, by its id or a unique beginning',
    status: 200,
    answer: backup,
    handle: async ({ catalog }, { parameters }) => {
      const found = await findBackup(catalog, backupId.parse(parameters).id);
      return (await withRestoring(catalog, [found.backup]))[0];
    },
  },
  {
    method: 'POST',
    path: '/v1/backups',
    summary: 'Start a backup',
    status: 202,
    body: takeBackupRequest,
    answer: started,
    handle: async ({ client }, { body }) => {
      const request = takeBackupRequest.parse(body);
      const { workflowId } = await startTakeBackup(await client(), { requestedBy: 'api', ...request });
      return { jobId: workflowId };
    },
  },
  {
    method: 'POST',
    path: '/v1/restores',
    summary: 'Start a restore',
    status: 202,
    body: restoreVmRequest,
    answer: started,
    handle: async ({ catalog, client }, { body }) => {
      const request = restoreVmRequest.parse(body);
      const { vm } = (await findBackup(catalog, request.backupId)).backup;
      const { workflowId } = await startRestoreVm(await client(), { requestedBy: 'api', ...request }, vm.name);
      return { jobId: workflowId };
    },
  },
  {
    method: 'POST',
    path: '/v1/disk-restores',
    summary: 'Start to give a VM one disk of a backup as a further disk',
    status: 202,
    body: restoreDiskRequest,
    answer: started,
    handle: async ({ catalog, client }, { body }) => {
      const request = restoreDiskRequest.parse(body);
      await findBackup(catalog, request.backupId);
      const { workflowId } = await startRestoreDisk(await client(), { requestedBy: 'api', ...request });
      return { jobId: workflowId };
    },
  },
  {
    method: 'POST',
    path: '/v1/validations',
    summary: 'Start a validation of a backup',
    status: 202,
    body: validateBackupRequest,
    answer: started,
    handle: async ({ catalog, client }, { body }) => {
      const request = validateBackupRequest.parse(body);
      const { vm } = (await findBackup(catalog, request.backupId)).backup;
      const { workflowId } = await startValidateBackup(await client(), { requestedBy: 'api', ...request }, vm.name);
      return { jobId: workflowId };
    },
  },
  {
    method: 'GET',
    path: '/v1/consolidations',
    summary: 'VMs whose disks still depend on a backup after a quick restore',
    status: 200,
    answer: z.array(shownConsolidation),
    handle: async ({ catalog }) => (await catalog.consolidations.list()).map(showConsolidation),
  },
  {
    method: 'GET',
    path: '/v1/jobs',
    summary: 'The newest hundred runs',
    status: 200,
    query: jobQuery,
    answer: z.array(job),
    handle: async ({ client }, { query }) => {
      const { running } = jobQuery.parse(query);
      return await listJobs(await client(), { running: running === 'true' });
    },
  },
  {
    method: 'GET',
    path: '/v1/jobs/:id',
    summary: 'One run: its step, what it waits for, or how it ended',
    status: 200,
    answer: jobDetails,
    handle: async ({ client }, { parameters }) => await describeJob(await client(), jobId.parse(parameters).id),
  },
  {
    method: 'POST',
    path: '/v1/jobs/:id/cancel',
    summary: 'Ask a run to stop and to undo what it did; does not wait until that is done',
    status: 202,
    answer: jobDetails,
    handle: async ({ client }, { parameters }) =>
      await cancelJob(await client(), jobId.parse(parameters).id, { wait: false }),
  },
];
