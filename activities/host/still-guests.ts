import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { HostDependencies } from './dependencies.ts';
import { RepositoryProbe } from './repository-probe.ts';
import type { RestoreNote, RestoreNotes } from './restore-notes.ts';

/** virDomainPausedReason. Source: include/libvirt/libvirt-domain.h */
const PAUSED_IOERROR = 5;

type StandsOn = Pick<RestoreNote, 'plan' | 'prepared'>;

/** Guests on a backup that stand still because a read or write failed, as they are told to. */
export class StillGuests {
  readonly #dependencies: Pick<HostDependencies, 'gateways' | 'libvirt' | 'openStore'> & { restores: RestoreNotes };
  readonly #probe = new RepositoryProbe();

  constructor(dependencies: Pick<HostDependencies, 'gateways' | 'libvirt' | 'openStore'> & { restores: RestoreNotes }) {
    this.#dependencies = dependencies;
  }

  /** Why what the disks lie on cannot be read at the moment; undefined when it can, and the gateway serves it. */
  async problem({ plan, prepared }: StandsOn, signal: AbortSignal): Promise<string | undefined> {
    const { gateways, openStore } = this.#dependencies;
    const keys = prepared.disks.flatMap(({ chain }) => chain.map(({ file }) => file));
    const problem = await this.#probe.problem(openStore(plan.repository.location), plan.repository.id, keys);
    if (problem !== undefined) return problem;
    try {
      await gateways.ensure(plan.restoreId, { signal });
      return undefined;
    } catch (error) {
      if (error instanceof HoldfastError) return error.message;
      throw error;
    }
  }

  /** Lets it go on. Repeatable. */
  async letGoOn(domain: Domain, signal: AbortSignal): Promise<void> {
    const { libvirt } = this.#dependencies;
    try {
      await libvirt.resume(domain, { signal });
    } catch (error) {
      if (!isLibvirtError(error, LIBVIRT_ERRORS.OPERATION_INVALID)) throw error;
      if (isStill(await libvirt.state(domain, { signal }))) throw error;
    }
  }

  /**
   * Lets the guest of a restore go on where it stands still and what it lies on can be read again: one that no job looks
   * after, because its consolidation was cancelled or its worker has just come back, would stand still for ever.
   * @param id of the restore, and of its gateway
   * @returns its name when it goes on; undefined when there is nothing to do, or not yet
   */
  async look(id: string, signal: AbortSignal): Promise<string | undefined> {
    const { libvirt, restores } = this.#dependencies;
    const note = await restores.read(id);
    const domain = note && (await libvirt.lookupByUuid(note.prepared.vm.uuid, { signal }));
    if (note === undefined || domain === undefined) return undefined;
    if (!isStill(await libvirt.state(domain, { signal }))) return undefined;
    if ((await this.problem(note, signal)) !== undefined) return undefined;
    await this.letGoOn(domain, signal);
    return domain.name;
  }
}

/** A read or write that failed stopped the guest; not a person. */
export const isStill = ({ state, reason }: Awaited<ReturnType<Libvirt['state']>>): boolean =>
  state === 'paused' && reason === PAUSED_IOERROR;
