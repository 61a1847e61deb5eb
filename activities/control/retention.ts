import { HoldfastError } from '../../schemas/failures.ts';
import type { RetentionRules } from '../../schemas/retention.ts';
import type { ControlDependencies } from './dependencies.ts';
import { judgeCopies, judgeRetention, type JudgedRetention } from './judge-retention.ts';

/** A run's history has an end: what is beyond these goes with the VM's next run, or is counted only. */
const GOING_AT_ONCE = 300;
const KEPT_SHOWN = 1000;

export interface JudgedVm {
  vm: { uuid: string; name: string };
  offering: string;
  keptCount: number;
  kept: JudgedRetention[];
  /** What goes, newest first, and what it takes along. */
  going: JudgedRetention[];
  /** More that go, with the next run. */
  left: number;
  /** Copies that go, by the rules that the offering has for them. */
  copies?: { repository: string; going: JudgedRetention[] };
}

interface CopyRules {
  repository: string;
  rules: RetentionRules;
}

const goes = ({ outcome, wasHidden }: JudgedRetention): boolean =>
  outcome !== 'kept' && !(outcome === 'hidden' && wasHidden);

export const createRetention = ({ catalog }: ControlDependencies) => {
  /** A VM is known as long as it has backups, wherever it is. */
  async function protectedVm(
    vm: string,
  ): Promise<{ uuid: string; name: string; offering: string; rules: RetentionRules | null; copies: CopyRules | null }> {
    const [vmFound, ...others] = await catalog.vms.findByNameOrUuid(vm);
    if (vmFound === undefined) throw new HoldfastError('VmNotFound', `VM ${vm} is not known; see: holdfast vm ls`);
    if (others.length > 0) {
      const uuids = [vmFound, ...others].map(({ uuid }) => uuid).join(', ');
      throw new HoldfastError('VmAmbiguous', `several VMs are called ${vm}: ${uuids}; name one by its UUID`);
    }
    const { uuid, name, offering } = vmFound;
    if (offering === null) {
      throw new HoldfastError('NoRetention', `VM ${name} is protected by no offering: nothing says what to keep`);
    }
    const found = await catalog.offerings.find(offering);
    const rules = found?.retention ?? null;
    const copies =
      found?.copyTo == null || found.copyRetention === null
        ? null
        : { repository: found.copyTo, rules: found.copyRetention };
    if (rules === null && copies === null) {
      throw new HoldfastError('NoRetention', `VM ${name}: its offering ${offering} has no retention: all backups stay`);
    }
    return { uuid, name, offering, rules, copies };
  }

  return {
    /**
     * What the rules of the VM's offering mean for each of its backups.
     * @throws NoRetention, VmNotFound, VmAmbiguous
     */
    async judgeRetention(vm: string): Promise<JudgedVm> {
      const { uuid, name, offering, rules, copies } = await protectedVm(vm);
      const backups = rules === null ? [] : await judgeRetention(catalog, uuid, rules, new Date());
      const kept = backups.filter(({ outcome }) => outcome === 'kept');
      const going = backups.filter(goes);
      const judgedCopies =
        copies === null ? [] : await judgeCopies(catalog, uuid, copies.repository, copies.rules, new Date());
      return {
        vm: { uuid, name },
        offering,
        keptCount: kept.length,
        kept: kept.slice(0, KEPT_SHOWN),
        going: going.slice(0, GOING_AT_ONCE),
        left: Math.max(0, going.length - GOING_AT_ONCE),
        ...(copies === null
          ? {}
          : { copies: { repository: copies.repository, going: judgedCopies.filter(goes).slice(0, GOING_AT_ONCE) } }),
      };
    },

    /** Asked once nothing else works on the VM: nothing wants the backup to live, still. */
    async retentionLetsGo(vmUuid: string, backupId: string, copyIn?: string): Promise<boolean> {
      const { rules, copies } = await protectedVm(vmUuid);
      const isCopy = copyIn !== undefined;
      if (isCopy && copies?.repository !== copyIn) return false;
      const judged =
        isCopy && copies !== null
          ? await judgeCopies(catalog, vmUuid, copyIn, copies.rules, new Date())
          : rules === null
            ? []
            : await judgeRetention(catalog, vmUuid, rules, new Date());
      return judged.some(({ id, keptBy }) => id === backupId && keptBy.length === 0);
    },

    /** VMs whose offering has retention, by UUID, from the one after `after` on. */
    async vmsWithRetention(after: string | null, limit: number): Promise<{ uuid: string; name: string }[]> {
      const offerings = await catalog.offerings.list();
      const withRules = new Set(
        offerings.filter((one) => (one.retention ?? one.copyRetention) !== null).map(({ name }) => name),
      );
      return (await catalog.vms.list())
        .filter(({ uuid, offering }) => offering !== null && withRules.has(offering) && uuid > (after ?? ''))
        .toSorted((a, b) => (a.uuid < b.uuid ? -1 : 1))
        .slice(0, limit)
        .map(({ uuid, name }) => ({ uuid, name }));
    },

    /** Tells people what retention did to a VM's backups. */
    async recordRetention(vmUuid: string, message: string, failed: boolean): Promise<void> {
      const kind = failed ? 'retention-stopped' : 'retention-applied';
      await catalog.events.record({ at: new Date().toISOString(), kind, vmUuid, message });
    },
  };
};
