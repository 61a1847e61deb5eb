import { CancellationScope, ContinueAsNew, continueAsNew, isCancellation, sleep } from '@temporalio/workflow';
import type { StoredVm } from '../activities/host/read-stored.ts';
import type { RepositoryRecord } from '../schemas/repository.ts';
import { rescanRepositoryRequest, type RescanRepositoryRequest } from '../schemas/requests.ts';
import { addRescans, emptyRescan, type RescanFinding, type RescanSummary } from '../schemas/rescan.ts';
import { controlActivities, hostReads } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { hostWithRepository } from './repository-host.ts';
import { thisRun } from './this-run.ts';

export type RescannedRepository = RescanSummary & { repository: string; dryRun: boolean };

/** VMs of one listing: their UUIDs are a fifth of a payload. A run goes on as a new one after them. */
const VMS_PER_HISTORY = 10_000;
/** What is read, admitted and taken over at once. */
const VMS_PER_BATCH = 500;
const BACKUPS_PER_BATCH = 1000;
/** How often, and after which pauses, VMs are tried again that an operation was at work on. */
const BUSY_PAUSES_SECONDS = [10, 30, 60];

/** Rebuilds what the catalog knows of a repository from its manifests, and says what is missing, surplus or damaged. */
export async function rescanRepository(request: RescanRepositoryRequest): Promise<RescannedRepository> {
  const asked = parseRequest(rescanRepositoryRequest, 'rescanRepository', request);
  const control = controlActivities();
  const view = new OperationView('rescanRepository', '');
  const dryRun = asked.dryRun ?? false;
  try {
    const { repository, hosts } = await control.planRescan(asked.repository);
    view.about({ repository: repository.name });
    view.step('looking for a host that has the repository');
    const host = await hostWithRepository(hosts, repository);
    view.about({ host });
    view.step(`listing repository ${repository.name}`);
    const after = asked.goesOn?.after ?? null;
    const stored = await hostReads(host).listStoredVms(repository, after, VMS_PER_HISTORY);
    const last = stored.length < VMS_PER_HISTORY ? null : (stored.at(-1)?.uuid ?? null);
    const seen = stored.map(({ uuid }) => uuid);
    const gone = await control.vmsKnownIn(repository.name, after, last, seen);
    const vms = [...stored, ...gone.map((uuid) => ({ uuid, manifests: 0 }))];

    let summary = (asked.goesOn?.summary ?? emptyRescan()) as RescanSummary;
    let done = 0;
    let busy: StoredVm[] = [];
    const take = async (some: StoredVm[]): Promise<void> => {
      const taken = new Set<string>();
      for (const batch of batchesOf(some)) {
        view.step(`reading manifests: ${done} of ${vms.length} VMs`);
        const result = await rescanBatch(repository, host, batch, dryRun);
        summary = addRescans(summary, result.summary);
        for (const uuid of result.taken) taken.add(uuid);
        done += batch.length - result.taken.length;
      }
      busy = some.filter(({ uuid }) => taken.has(uuid));
    };
    await take(vms);
    for (const seconds of BUSY_PAUSES_SECONDS) {
      if (busy.length === 0) break;
      view.waitingFor(`waiting for the operations at work on ${busy.length} VMs`);
      await sleep(seconds * 1000);
      await take(busy);
    }
    summary = addRescans(summary, skipped(busy));
    if (last !== null) {
      return await continueAsNew<typeof rescanRepository>({ ...asked, goesOn: { after: last, summary } });
    }
    if (!dryRun) await control.recordRescan(repository.name, summary);
    const { findings, added, changed } = summary;
    const told = `${added} added, ${changed} changed, ${findings.missing} missing, ${findings.surplus} surplus, ${findings.damaged} damaged`;
    view.ended('done', told);
    return { repository: repository.name, dryRun, ...summary };
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** Reads and takes over some VMs, admitted to all of them for that moment. Gives those that somebody works on, untouched. */
async function rescanBatch(
  repository: RepositoryRecord,
  host: string,
  batch: readonly StoredVm[],
  dryRun: boolean,
): Promise<{ summary: RescanSummary; taken: string[] }> {
  const control = controlActivities();
  try {
    const uuids = batch.map(({ uuid }) => uuid);
    const taken = await control.claimVms(uuids, thisRun());
    const free = uuids.filter((uuid) => !taken.includes(uuid));
    if (free.length === 0) return { summary: emptyRescan(), taken };
    const first = await hostReads(host).readStoredVms(repository, free, 0);
    const parts = [first.packed];
    while (parts.length < first.parts) {
      parts.push((await hostReads(host).readStoredVms(repository, free, parts.length)).packed);
    }
    return { summary: await control.applyRescan(repository.name, free, parts, { ...thisRun(), dryRun }), taken };
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseVms(thisRun()));
  }
}

function* batchesOf(vms: readonly StoredVm[]): Generator<StoredVm[]> {
  let batch: StoredVm[] = [];
  let backups = 0;
  for (const vm of vms) {
    if (batch.length === VMS_PER_BATCH || (batch.length > 0 && backups + vm.manifests > BACKUPS_PER_BATCH)) {
      yield batch;
      batch = [];
      backups = 0;
    }
    batch.push(vm);
    backups += vm.manifests;
  }
  if (batch.length > 0) yield batch;
}

const skipped = (busy: readonly StoredVm[]): RescanSummary => ({
  ...emptyRescan(),
  findings: { ...emptyRescan().findings, skipped: busy.length },
  told: busy.map(({ uuid }): RescanFinding => {
    const message = `VM ${uuid} was left as it is: an operation is at work on it`;
    return { sort: 'skipped', vmUuid: uuid, backupId: null, message };
  }),
});
