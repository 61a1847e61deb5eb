import type { DomainState } from '../../libvirt/libvirt.ts';
import type { PowerState } from '../../schemas/catalog.ts';

/** What a domain's state means for a backup: has it a QEMU or not. */
export function powerOf(state: DomainState): PowerState {
  if (state === 'running' || state === 'paused') return state;
  if (state === 'blocked') return 'running';
  return state === 'shutoff' || state === 'crashed' ? 'shutoff' : 'other';
}
