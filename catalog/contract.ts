import type { HostRecord, Offering, VmRecord, VmSighting } from '../schemas/catalog.ts';
import type { RepositoryRecord, RepositorySettings } from '../schemas/repository.ts';
import type { VmState } from '../schemas/states.ts';
import type { CheckQueries } from './checks.ts';
import type { ClaimQueries } from './claims.ts';
import type { BackupQueries, CheckpointQueries, DeltaQueries } from './contract/backups.ts';
import type { CopyQueries } from './contract/copies.ts';
import type {
  AdmissionQueries,
  ConsolidationQueries,
  RewriteQueries,
  ValidationQueries,
} from './contract/operations.ts';
import type { ProofQueries, ScheduleQueries } from './contract/schedules.ts';
import type { RescanQueries } from './rescans.ts';

export type * from './contract/backups.ts';
export type * from './contract/copies.ts';
export type * from './contract/operations.ts';
export type * from './contract/schedules.ts';

/**
 * The catalog: what the installation knows of hosts, VMs, repositories, backups and running operations. Several
 * processes use it at once. It can be rebuilt from the repositories and the hypervisors.
 */
export interface Catalog extends AsyncDisposable {
  /** UUID of the installation whose catalog this is; repositories name it as their owner. A new catalog has a new one. */
  installation(): Promise<string>;
  hosts: HostQueries;
  vms: VmQueries;
  repositories: RepositoryQueries;
  offerings: OfferingQueries;
  backups: BackupQueries;
  checkpoints: CheckpointQueries;
  deltas: DeltaQueries;
  admissions: AdmissionQueries;
  consolidations: ConsolidationQueries;
  events: EventQueries;
  validations: ValidationQueries;
  rewrites: RewriteQueries;
  copies: CopyQueries;
  schedules: ScheduleQueries;
  proofs: ProofQueries;
  rescans: RescanQueries;
  claims: ClaimQueries;
  checks: CheckQueries;
}

export interface HostQueries {
  list(): Promise<HostRecord[]>;
  find(name: string): Promise<HostRecord | undefined>;
  /** Adds it, or changes what is given of it. */
  upsert(host: Pick<HostRecord, 'name'> & Partial<HostRecord>): Promise<HostRecord>;
  remove(name: string): Promise<void>;
}

export interface VmQueries {
  list(): Promise<VmRecord[]>;
  /** By UUID, or by name: several VMs of a fleet may share a name. */
  findByNameOrUuid(nameOrUuid: string): Promise<VmRecord[]>;
  find(uuid: string): Promise<VmRecord | undefined>;
  /**
   * Takes over one host's inventory. A VM seen running here moves here; one seen shut off here stays with the host
   * where it was last seen running, if that host still has it. Sightings of this host that are no longer there go.
   * VMs with backups stay known when no host has them.
   */
  recordInventory(host: string, sightings: VmSighting[], seenAt: string): Promise<void>;
  /** The same for one VM of one host; the host's other VMs stay as they are. */
  recordSighting(sighting: VmSighting, seenAt: string): Promise<void>;
  /**
   * What a host answered when it was asked for one VM, by name or UUID: the sightings are taken over, and sightings of
   * this host under that name or UUID that are not among them go.
   */
  recordAnswer(host: string, nameOrUuid: string, sightings: VmSighting[], seenAt: string): Promise<void>;
  /** Hosts whose last inventory had the VM. */
  sightings(uuid: string): Promise<VmSighting[]>;
  setState(uuid: string, state: VmState, error?: string | null): Promise<void>;
  setOffering(uuid: string, offering: string | null): Promise<void>;
}

export interface RepositoryQueries {
  list(): Promise<RepositoryRecord[]>;
  find(name: string): Promise<RepositoryRecord | undefined>;
  add(repository: Omit<RepositoryRecord, 'createdAt'>): Promise<RepositoryRecord>;
  changeSettings(name: string, settings: RepositorySettings): Promise<void>;
  /**
   * Runs `change` alone among all changes of repositories, in every process with this catalog: what it reads of a repository's settings
   * and keys stays so until it has written them anew. Others wait; a process that ends lets them go on.
   */
  alone<T>(change: () => Promise<T>): Promise<T>;
  remove(name: string): Promise<void>;
}

export interface OfferingQueries {
  list(): Promise<Offering[]>;
  find(name: string): Promise<Offering | undefined>;
  upsert(offering: Offering): Promise<void>;
  remove(name: string): Promise<void>;
}

/** Something that happened, told to a person: what, to which VM, and what follows. */
export interface CatalogEvent {
  /** ISO 8601. */
  at: string;
  kind: string;
  vmUuid: string | null;
  backupId: string | null;
  message: string;
  /** The same for a machine, if there is more to say than the kind. */
  detail: unknown;
}

export interface EventQueries {
  record(
    event: Pick<CatalogEvent, 'at' | 'kind' | 'message'> & {
      vmUuid?: string | null;
      backupId?: string | null;
      detail?: unknown;
    },
  ): Promise<void>;
  /** Newest first, at most 100 unless told. */
  list(filter?: { vmUuid?: string; since?: string; limit?: number }): Promise<CatalogEvent[]>;
}
