import { setTimeout as sleep } from 'node:timers/promises';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { attribute, child, parseXml } from '../../libvirt/xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { HostState } from './host-state.ts';

export interface BackupJob {
  /** The backup of ours the job belongs to; undefined for another tool's job. */
  backupId: string | undefined;
}

/** The backup job that runs on a domain now; undefined when there is none. */
export async function runningBackupJob(
  libvirt: Libvirt,
  domain: Domain,
  state: HostState,
  options: { signal: AbortSignal },
): Promise<BackupJob | undefined> {
  const xml = await libvirt.backupXml(domain, options);
  if (xml === undefined) return undefined;
  const socketPath = attribute(child(parseXml(xml, 'domainbackup'), 'server'), 'socket');
  return { backupId: socketPath === null ? undefined : state.backupOfSocket(socketPath) };
}

const GONE_AFTER_MS = 30_000;

/** Ends our backup job and waits until QEMU has let go of it. Nothing to do when it is gone, or is not this backup's. */
export async function abortOwnJob(
  libvirt: Libvirt,
  domain: Domain,
  state: HostState,
  backupId: string,
  options: { signal: AbortSignal },
): Promise<void> {
  const deadline = Date.now() + GONE_AFTER_MS;
  for (let asked = false; ;) {
    const job = await runningBackupJob(libvirt, domain, state, options);
    if (job?.backupId !== backupId) return;
    if (!asked) {
      await libvirt.abortJob(domain, options);
      asked = true;
      continue;
    }
    if (Date.now() > deadline) {
      throw new HoldfastError('DomainBusy', `VM ${domain.name}: its backup job does not end; trying again`);
    }
    await sleep(50, undefined, options);
  }
}
