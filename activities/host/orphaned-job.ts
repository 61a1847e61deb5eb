import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { abortOwnJob, runningBackupJob } from './backup-job.ts';
import { removeCheckpoint } from './checkpoints.ts';
import type { HostState } from './host-state.ts';

/**
 * Ends a backup job of ours with its checkpoint, so that the VM can be looked at as it is: a job hides its bitmaps. For a
 * caller to whom the VM is admitted alone: the job can only be of a run that was ended by force.
 * @throws HoldfastError DomainBusy while another tool's backup job runs
 */
export async function endOrphanedJob(
  { libvirt, state }: { libvirt: Libvirt; state: HostState },
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<void> {
  const job = await runningBackupJob(libvirt, domain, state, options);
  if (job === undefined) return;
  if (job.backupId === undefined) {
    throw new HoldfastError('DomainBusy', `VM ${domain.name}: another tool's backup job runs on it; trying again`);
  }
  await abortOwnJob(libvirt, domain, state, job.backupId, options);
  await removeCheckpoint(libvirt, domain, job.backupId, options);
  await state.remove(job.backupId);
}
