import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  connectLibvirt,
  defaultSocketPath,
  LibvirtError,
  parseLibvirtAddress,
  type Libvirt,
} from '../libvirt/libvirt.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { daemonRootOf } from '../workers/daemon-root.ts';
import { writeNewFile } from './new-file.ts';
import type { StandalonePlan } from './plan-restore.ts';

export interface LocalLibvirt extends AsyncDisposable {
  /** Asks whether the VM could be defined: before the first byte is written. Refused by VmNameTaken, VmUuidTaken. */
  requireUndefined(plan: Pick<StandalonePlan, 'vm'>, refuse: (reason: HoldfastError) => void): Promise<void>;
  /**
   * Defines the restored VM, its TPM state put where libvirt looks for it. The disks stay, whatever libvirt says.
   * @throws HoldfastError VmDefinitionInvalid, DestinationExists
   */
  define(plan: StandalonePlan, options: { start: boolean }): Promise<void>;
}

/**
 * The libvirt of this machine, for a VM that was restored without an installation.
 * @param address socket; default the system's
 */
export function openLocalLibvirt(address: string = defaultSocketPath()): LocalLibvirt {
  const parsed = parseLibvirtAddress(address);
  if (parsed.kind !== 'unix') {
    throw new HoldfastError(
      'InvalidRequest',
      `libvirt: the disks are on this machine, give its socket, not ${address}`,
    );
  }
  const libvirt = connectLibvirt(parsed);
  return {
    requireUndefined: ({ vm }, refuse) => requireUndefined(libvirt, vm, refuse),
    async define(plan, { start }) {
      if (plan.definition === null) return;
      const daemonRoot = await daemonRootOf(parsed.path);
      for (const { belongsTo, content, mode } of plan.files) {
        if (belongsTo === undefined) continue;
        const path = join(daemonRoot, belongsTo);
        await mkdir(dirname(path), { recursive: true, mode: 0o711 });
        await writeNewFile({ path, content, mode });
      }
      const domain = await libvirt.define(plan.definition.xml).catch((error: unknown) => {
        if (!(error instanceof LibvirtError)) throw error;
        throw new HoldfastError(
          'VmDefinitionInvalid',
          `libvirt refuses the definition of VM ${plan.vm.name}: ${error.message}. Its disks are restored and stay; ` +
            `correct ${plan.definition?.path ?? ''}, then: virsh define`,
          { cause: error },
        );
      });
      if (start) await libvirt.create(domain);
    },
    [Symbol.asyncDispose]: () => libvirt[Symbol.asyncDispose](),
  };
}

async function requireUndefined(
  libvirt: Libvirt,
  vm: { uuid: string; name: string },
  refuse: (reason: HoldfastError) => void,
): Promise<void> {
  const present = await libvirt.lookupByUuid(vm.uuid);
  const namesake = await libvirt.lookupByName(vm.name);
  if (present !== undefined) {
    const message = `this machine has VM ${present.name} with the UUID ${vm.uuid}; undefine it first, or give --as without --keep-uuid`;
    refuse(new HoldfastError('VmUuidTaken', message));
  } else if (namesake !== undefined) {
    const message = `this machine has a VM ${vm.name} already (${namesake.uuid}); choose another name with --as`;
    refuse(new HoldfastError('VmNameTaken', message));
  }
}
