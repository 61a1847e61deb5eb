import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import { backupOfCheckpoint } from '../../schemas/names.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { removeCheckpoint } from './checkpoints.ts';
import type { HostDependencies } from './dependencies.ts';

/** Checkpoints on a VM that bear our names, by the backup they belong to. */
export interface OwnCheckpoints {
  vm: { uuid: string; name: string };
  backupIds: string[];
}

export const createOwnCheckpoints = ({ libvirt }: HostDependencies) => ({
  /** Of all VMs of the host that have any. Other tools' are not looked at. */
  async listOwnCheckpoints(): Promise<OwnCheckpoints[]> {
    return await withHeartbeat('listing checkpoints', async () => {
      const signal = cancellationSignal();
      const found: OwnCheckpoints[] = [];
      for (const domain of await libvirt.listDomains({ signal })) {
        const names = await libvirt.checkpointList(domain, {}, { signal }).catch((error: unknown) => {
          if (isLibvirtError(error, LIBVIRT_ERRORS.NO_DOMAIN)) return []; // undefined meanwhile
          throw error;
        });
        const backupIds = names.flatMap((name) => backupOfCheckpoint(name) ?? []);
        if (backupIds.length > 0) found.push({ vm: { uuid: domain.uuid, name: domain.name }, backupIds });
      }
      return found;
    });
  },

  /** For a caller to whom the VM is admitted. Repeatable; a VM that is gone has none. */
  async removeOwnCheckpoints({ vm, backupIds }: OwnCheckpoints): Promise<void> {
    await withHeartbeat('removing checkpoints', async () => {
      const signal = cancellationSignal();
      const domain = await libvirt.lookupByUuid(vm.uuid, { signal });
      if (domain === undefined) return;
      for (const backupId of backupIds) await removeCheckpoint(libvirt, domain, backupId, { signal });
    });
  },
});
