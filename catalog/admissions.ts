import type { Transaction } from 'kysely';
import { z } from 'zod';
import type { AdmissionRequest } from '../schemas/catalog.ts';
import type { AdmissionAnswer, AdmissionQueries, Granted } from './contract.ts';
import type { AdmissionTable, Database, Tables } from './database.ts';
import { grant, THINGS } from './grant.ts';
import type { AdmissionState, Decision, WaitingOperation } from './grant.ts';
import { DEFAULT_HOST_SLOTS } from './hosts.ts';
import { oneAtATime } from './transaction.ts';
import { waitingFor } from './waiting-for.ts';

/** For a repository that was removed while operations waited for it. */
const DEFAULT_REPOSITORY_SLOTS = 4;

/**
 * The one dispatcher of all limits. `grant.ts` decides; here is what it decides on, and what becomes of it, each time
 * in one transaction that is alone among those of the dispatcher. Between two of them nobody waits who could run.
 */
export const admissionQueries = (database: Database): AdmissionQueries => ({
  async request(request) {
    return await oneAtATime(database, 'admissions', async (trx) => {
      const asked = await enqueue(trx, request);
      if (asked.state === 'granted') return { granted: true };
      // Most find what they need in use. To see that, a few rows do; the whole queue may have ten thousand.
      const [alone] = grant(await stateAround(trx, asked));
      if (alone && alone.obstacles.length > 0) {
        await remember(trx, [alone]);
        return await answer(trx, alone);
      }
      const decisions = await dispatch(trx);
      const own = decisions.find(({ operation }) => operation.operationId === request.operationId);
      return own && own.obstacles.length > 0 ? await answer(trx, own) : { granted: true };
    });
  },

  async release(operationId) {
    return await oneAtATime(database, 'admissions', async (trx) => {
      const given = await trx
        .deleteFrom('admissions')
        .where('operation_id', '=', operationId)
        .returning('operation_id')
        .execute();
      if (given.length === 0) return [];
      const decisions = await dispatch(trx);
      return decisions.filter(({ obstacles }) => obstacles.length === 0).map(({ operation }) => toGranted(operation));
    });
  },

  async restoring() {
    const rows = await database.db
      .selectFrom('admissions')
      .select('restores_backup_id')
      .where('state', '=', 'granted')
      .where('restores_backup_id', 'is not', null)
      .execute();
    return new Set(rows.flatMap(({ restores_backup_id }) => restores_backup_id ?? []));
  },

  async handOver(operationId, { operation, workflowId, runId, vmUuid }) {
    return await oneAtATime(database, 'admissions', async (trx) => {
      const handed = await trx
        .updateTable('admissions')
        .set({
          operation,
          workflow_id: workflowId,
          run_id: runId,
          vm_uuid: vmUuid,
          host: null,
          repository: null,
        })
        .where('operation_id', '=', operationId)
        .where('state', '=', 'granted')
        .returning('operation_id')
        .execute();
      if (handed.length === 0) return undefined;
      const decisions = await dispatch(trx);
      return decisions
        .filter(({ obstacles }) => obstacles.length === 0)
        .map((decision) => toGranted(decision.operation));
    });
  },

  async list() {
    const { db } = database;
    const rows = await db.selectFrom('admissions').selectAll().orderBy('place').execute();
    const decisions = grant(await withSlots(db, rows));
    const sentences = new Map<string, string>();
    const nameOfVm = await namesOfVms(db, decisions);
    for (const { operation, obstacles } of decisions) {
      if (obstacles.length > 0) sentences.set(operation.operationId, waitingFor(obstacles, nameOfVm));
    }
    return rows.map((row) => ({
      ...toRequest(row),
      state: row.state,
      requestedAt: row.requested_at,
      waitingFor: sentences.get(row.operation_id) ?? null,
    }));
  },
});

/** Puts it at the end of the queue, or finds it there. While it waits it may change its wishes and keeps its place. */
async function enqueue(trx: Transaction<Tables>, request: AdmissionRequest): Promise<AdmissionTable> {
  const wishes = {
    operation: request.operation,
    workflow_id: request.workflowId,
    run_id: request.runId,
    vm_uuid: request.vmUuid,
    chain_id: request.chain?.id ?? null,
    chain_mode: request.chain?.mode ?? null,
    host: request.host,
    repository: request.repository,
    tenant: request.tenant,
    priority: request.priority,
    restores_backup_id: request.restoresBackupId ?? null,
  };
  const there = await trx
    .selectFrom('admissions')
    .selectAll()
    .where('operation_id', '=', request.operationId)
    .executeTakeFirst();
  if (there === undefined) {
    const last = await trx
      .selectFrom('admissions')
      .select('place')
      .orderBy('place', 'desc')
      .limit(1)
      .executeTakeFirst();
    return await trx
      .insertInto('admissions')
      .values({
        operation_id: request.operationId,
        ...wishes,
        state: 'waiting',
        place: (last?.place ?? 0) + 1,
        waited_for: '[]',
        requested_at: new Date().toISOString(),
      })
      .returningAll()
      .executeTakeFirstOrThrow();
  }
  const changed = Object.entries(wishes).filter(([column, value]) => there[column as keyof typeof wishes] !== value);
  if (there.state === 'granted' || changed.length === 0) return there;
  return await trx
    .updateTable('admissions')
    .set({ ...wishes, waited_for: '[]' })
    .where('operation_id', '=', request.operationId)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Goes through the whole queue and writes down who may start. */
export async function dispatch(trx: Transaction<Tables>): Promise<Decision[]> {
  const waiting = await trx.selectFrom('admissions').select('place').where('state', '=', 'waiting').limit(1).execute();
  if (waiting.length === 0) return [];
  const rows = await trx.selectFrom('admissions').selectAll().execute();
  const decisions = grant(await withSlots(trx, rows));
  await remember(trx, decisions);
  return decisions;
}

async function remember(trx: Transaction<Tables>, decisions: readonly Decision[]): Promise<void> {
  for (const { operation, obstacles, waitedFor } of decisions) {
    const isGranted = obstacles.length === 0;
    if (!isGranted && waitedFor.length === operation.waitedFor.length) continue;
    await trx
      .updateTable('admissions')
      .set({ state: isGranted ? 'granted' : 'waiting', waited_for: JSON.stringify(waitedFor) })
      .where('operation_id', '=', operation.operationId)
      .execute();
  }
}

/** The operation by itself, beside those that hold something it needs. */
async function stateAround(trx: Transaction<Tables>, asked: AdmissionTable): Promise<AdmissionState> {
  const holders = await trx
    .selectFrom('admissions')
    .selectAll()
    .where('state', '=', 'granted')
    .where((where) =>
      where.or([
        ...(asked.vm_uuid === null ? [] : [where('vm_uuid', '=', asked.vm_uuid)]),
        ...(asked.chain_id === null ? [] : [where('chain_id', '=', asked.chain_id)]),
        ...(asked.host === null ? [] : [where('host', '=', asked.host)]),
        ...(asked.repository === null ? [] : [where('repository', '=', asked.repository)]),
      ]),
    )
    .execute();
  return await withSlots(trx, [...holders, asked]);
}

async function withSlots(db: Database['db'], rows: readonly AdmissionTable[]): Promise<AdmissionState> {
  const hosts = new Map(
    (await db.selectFrom('hosts').select(['name', 'slots']).execute()).map(({ name, slots }) => [name, slots]),
  );
  const repositories = new Map(
    (await db.selectFrom('repositories').select(['name', 'slots']).execute()).map(({ name, slots }) => [name, slots]),
  );
  return {
    granted: rows.filter(({ state }) => state === 'granted').map(toRequest),
    waiting: rows.filter(({ state }) => state === 'waiting').map(toWaiting),
    hostSlots: (name) => hosts.get(name) ?? DEFAULT_HOST_SLOTS,
    repositorySlots: (name) => repositories.get(name) ?? DEFAULT_REPOSITORY_SLOTS,
  };
}

async function answer(trx: Transaction<Tables>, decision: Decision): Promise<AdmissionAnswer> {
  const blockers = new Map(
    decision.obstacles
      .flatMap(({ holders, keptFor }) => (keptFor ? [...holders, keptFor] : holders))
      .map((operation) => [operation.operationId, toGranted(operation)]),
  );
  return {
    granted: false,
    waitingFor: waitingFor(decision.obstacles, await namesOfVms(trx, [decision])),
    blockers: [...blockers.values()],
  };
}

async function namesOfVms(db: Database['db'], decisions: readonly Decision[]): Promise<(uuid: string) => string> {
  const uuids = new Set(
    decisions.flatMap(({ obstacles }) => obstacles.filter(({ thing }) => thing === 'vm').map(({ name }) => name)),
  );
  if (uuids.size === 0) return (uuid) => uuid;
  let query = db.selectFrom('vms').select(['uuid', 'name']);
  if (uuids.size <= 100) query = query.where('uuid', 'in', [...uuids]);
  const names = new Map((await query.execute()).map(({ uuid, name }) => [uuid, name]));
  return (uuid) => names.get(uuid) ?? uuid;
}

export const toGranted = ({ operationId, workflowId, runId }: AdmissionRequest): Granted => ({
  operationId,
  workflowId,
  runId,
});

const toRequest = (row: AdmissionTable): AdmissionRequest => ({
  operationId: row.operation_id,
  operation: row.operation,
  workflowId: row.workflow_id,
  runId: row.run_id,
  vmUuid: row.vm_uuid,
  chain: row.chain_id === null ? null : { id: row.chain_id, mode: row.chain_mode ?? 'exclusive' },
  host: row.host,
  repository: row.repository,
  tenant: row.tenant,
  priority: row.priority,
  ...(row.restores_backup_id === null ? {} : { restoresBackupId: row.restores_backup_id }),
});

const toWaiting = (row: AdmissionTable): WaitingOperation => ({
  ...toRequest(row),
  place: row.place,
  waitedFor: waitedForList.parse(JSON.parse(row.waited_for)),
});

const waitedForList = z.array(z.enum(THINGS));
