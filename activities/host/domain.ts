import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';

/** @throws HoldfastError VmNotFound */
export async function domainOf(
  libvirt: Libvirt,
  vm: { uuid: string; name: string },
  host: string,
  options: { signal: AbortSignal },
): Promise<Domain> {
  const domain = await libvirt.lookupByUuid(vm.uuid, options);
  if (domain === undefined) throw new HoldfastError('VmNotFound', `VM ${vm.name} (${vm.uuid}) is not on host ${host}`);
  return domain;
}
