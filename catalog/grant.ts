import type { AdmissionRequest } from '../schemas/catalog.ts';

/** What an operation can have to wait for. */
export const THINGS = ['vm', 'chain', 'host', 'repository'] as const;
export type Thing = (typeof THINGS)[number];

export interface WaitingOperation extends AdmissionRequest {
  /** Place in the queue; the smaller was there first. */
  place: number;
  /** Things that have held it up since it came; see `grant`. */
  waitedFor: readonly Thing[];
}

export interface AdmissionState {
  granted: readonly AdmissionRequest[];
  waiting: readonly WaitingOperation[];
  hostSlots: (host: string) => number;
  repositorySlots: (repository: string) => number;
}

/** One thing that is not to be had now, and why. */
export interface Obstacle {
  thing: Thing;
  name: string;
  /** Slots there are; 1 for a VM or a chain. */
  slots: number;
  /** Operations that were granted it. */
  holders: readonly AdmissionRequest[];
  /** The operation of higher rank it is kept for, when holders alone would leave room. */
  keptFor: AdmissionRequest | undefined;
}

/** Granted when nothing is in the way. */
export interface Decision {
  operation: WaitingOperation;
  obstacles: readonly Obstacle[];
  waitedFor: readonly Thing[];
}

/**
 * Decides who of the waiting may start. Each gets all it asks for or nothing.
 *
 * Rank: by priority (restores, 0, first); then the tenant that holds least; then who came first. One that cannot run
 * lets others pass, except that
 * - nobody of lower rank gets a thing it waits for. This matters for chains: readers that come later would keep a
 *   waiting writer out for ever;
 * - for the first in rank of those that cannot run, everything it ever waited for is kept, also what is free by now.
 *   Otherwise an operation that needs a host and a repository could find now the one taken and now the other. Only for
 *   the first: a hundred VMs queueing at one host must not keep the slots of a repository idle. It gets its turn, then
 *   the next is first.
 */
export function grant(state: AdmissionState): Decision[] {
  const ledger = new Ledger(state);
  const decisions: Decision[] = [];
  let isFirstBlocked = true;
  for (const operation of inOrderOfRank(state.waiting, ledger)) {
    const obstacles = ledger.obstacles(operation);
    if (obstacles.length === 0) {
      ledger.take(operation);
      decisions.push({ operation, obstacles, waitedFor: operation.waitedFor });
      continue;
    }
    const missing = obstacles.map(({ thing }) => thing);
    const waitedFor = THINGS.filter((thing) => missing.includes(thing) || operation.waitedFor.includes(thing));
    ledger.keep(operation, isFirstBlocked ? waitedFor : missing);
    isFirstBlocked = false;
    decisions.push({ operation, obstacles, waitedFor });
  }
  return decisions;
}

/** Yields each once; who comes next depends on what was granted meanwhile. */
function* inOrderOfRank(waiting: readonly WaitingOperation[], ledger: Ledger): Generator<WaitingOperation> {
  const byPriority = Map.groupBy(waiting, ({ priority }) => priority);
  for (const priority of [...byPriority.keys()].sort((a, b) => a - b)) {
    const byAge = (byPriority.get(priority) ?? []).toSorted((a, b) => a.place - b.place);
    const queues = [...Map.groupBy(byAge, ({ tenant }) => tenant)].map(([tenant, queue]) => ({
      tenant,
      queue,
      next: 0,
    }));
    for (;;) {
      let best: { operation: WaitingOperation; held: number; from: { next: number } } | undefined;
      for (const from of queues) {
        const operation = from.queue[from.next];
        if (operation === undefined) continue;
        const held = ledger.heldBy(from.tenant);
        if (!best || held < best.held || (held === best.held && operation.place < best.operation.place)) {
          best = { operation, held, from };
        }
      }
      if (!best) break;
      best.from.next++;
      yield best.operation;
    }
  }
}

/** Who has what, and for whom what is kept. */
class Ledger {
  readonly #taken = new Holdings();
  readonly #kept = new Holdings();
  readonly #heldByTenant = new Map<string, number>();
  readonly #state: AdmissionState;

  constructor(state: AdmissionState) {
    this.#state = state;
    for (const operation of state.granted) this.take(operation);
  }

  take(operation: AdmissionRequest): void {
    this.#taken.add(operation, THINGS);
    this.#heldByTenant.set(operation.tenant, this.heldBy(operation.tenant) + 1);
  }

  keep(operation: AdmissionRequest, things: readonly Thing[]): void {
    this.#kept.add(operation, things);
  }

  heldBy(tenant: string): number {
    return this.#heldByTenant.get(tenant) ?? 0;
  }

  obstacles(operation: AdmissionRequest): Obstacle[] {
    return THINGS.flatMap((thing) => {
      const name = nameOf(operation, thing);
      if (name === null) return [];
      const holders = this.#rivals(this.#taken, operation, thing, name);
      const kept = this.#rivals(this.#kept, operation, thing, name);
      const slots = this.#slots(thing, name);
      if (holders.length + kept.length < slots) return [];
      return [{ thing, name, slots, holders, keptFor: holders.length < slots ? kept[0] : undefined }];
    });
  }

  /** Who stands in the way: readers of a chain do not stand in each other's. */
  #rivals(where: Holdings, operation: AdmissionRequest, thing: Thing, name: string): readonly AdmissionRequest[] {
    const all = where.of(thing, name);
    if (thing !== 'chain' || operation.chain?.mode === 'exclusive') return all;
    return all.filter(({ chain }) => chain?.mode === 'exclusive');
  }

  #slots(thing: Thing, name: string): number {
    if (thing === 'host') return this.#state.hostSlots(name);
    if (thing === 'repository') return this.#state.repositorySlots(name);
    return 1;
  }
}

class Holdings {
  readonly #operations = new Map<string, AdmissionRequest[]>();

  add(operation: AdmissionRequest, things: readonly Thing[]): void {
    for (const thing of things) {
      const name = nameOf(operation, thing);
      if (name === null) continue;
      const key = `${thing} ${name}`;
      const those = this.#operations.get(key);
      if (those) those.push(operation);
      else this.#operations.set(key, [operation]);
    }
  }

  of(thing: Thing, name: string): readonly AdmissionRequest[] {
    return this.#operations.get(`${thing} ${name}`) ?? [];
  }
}

function nameOf(operation: AdmissionRequest, thing: Thing): string | null {
  switch (thing) {
    case 'vm':
      return operation.vmUuid;
    case 'chain':
      return operation.chain?.id ?? null;
    case 'host':
      return operation.host;
    case 'repository':
      return operation.repository;
  }
}
