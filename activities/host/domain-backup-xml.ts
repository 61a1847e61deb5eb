import { escapeXml } from '../../libvirt/xml.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { BackupPlan } from '../../schemas/plan.ts';

/** Name of the NBD metadata context's bitmap of one disk. */
export const exportBitmap = (target: string): string => `backup-${target}`;

/**
 * The pull-mode job over all planned disks: one NBD server on a unix socket, an export per disk, a scratch file for what
 * the guest overwrites meanwhile. Disks that are not planned are left out.
 * Source: libvirt docs/formatbackup.rst
 */
export function domainBackupXml(
  plan: BackupPlan,
  allTargets: string[],
  paths: { socketPath: string; scratchFile: (target: string) => string },
): string {
  const parent = plan.parentId === null ? null : checkpointName(plan.parentId);
  const disks = allTargets.map((target) => {
    const planned = plan.disks.find((disk) => disk.target === target);
    if (planned === undefined) return `<disk name='${escapeXml(target)}' backup='no'/>`;
    const incremental = planned.type === 'incremental' && parent !== null;
    return [
      `<disk name='${escapeXml(target)}' backup='yes' type='file' exportname='${escapeXml(target)}'`,
      incremental
        ? ` exportbitmap='${exportBitmap(target)}' backupmode='incremental' incremental='${parent}'>`
        : ` backupmode='full'>`,
      `<driver type='qcow2'/><scratch file='${escapeXml(paths.scratchFile(target))}'/></disk>`,
    ].join('');
  });
  return [
    `<domainbackup mode='pull'>`,
    `<server transport='unix' socket='${escapeXml(paths.socketPath)}'/>`,
    `<disks>${disks.join('')}</disks></domainbackup>`,
  ].join('');
}

/** The checkpoint at the instant, on every planned disk that can hold a bitmap. Source: libvirt docs/formatcheckpoint.rst */
export function checkpointXml(plan: BackupPlan, allTargets: string[]): string | undefined {
  const holds = new Set(plan.disks.filter(({ holdsBitmap }) => holdsBitmap).map(({ target }) => target));
  if (!plan.checkpoint || holds.size === 0) return undefined;
  const disks = allTargets.map(
    (target) => `<disk name='${escapeXml(target)}' checkpoint='${holds.has(target) ? 'bitmap' : 'no'}'/>`,
  );
  return `<domaincheckpoint><name>${checkpointName(plan.backupId)}</name><disks>${disks.join('')}</disks></domaincheckpoint>`;
}
