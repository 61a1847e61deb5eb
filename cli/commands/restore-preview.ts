import type { PreparedDisk, RestorePreview } from '../../schemas/restore-plan.ts';
import { sizeText, table } from '../output.ts';

/** What a restore would do, for people. */
export function previewText({ vm, host, isNew, disks, untouched, warnings, refused }: RestorePreview): string {
  return [
    `VM ${vm.name} (${vm.uuid}) on host ${host} would be ${isNew ? 'defined anew' : 'restored in place'}; nothing was changed`,
    table(
      ['DISK', 'WOULD BE', 'PATH', 'FORMAT', 'SIZE', 'WRITES UP TO'],
      [
        ...disks.map(({ target, action, path, format, virtualSizeBytes, writtenBytes }) => [
          target,
          action,
          path,
          format,
          sizeText(virtualSizeBytes),
          sizeText(writtenBytes),
        ]),
        ...untouched.map(({ target, path }) => [target, 'left as it is', path, null, null, null]),
      ],
      'no disks',
    ),
    ...warnings.map((warning) => `note: ${warning}`),
    ...refused.map((reason) => `would be refused now: ${reason}`),
  ].join('\n');
}

export const diskPreviewText = ({ disk, target, bus, serial }: PreparedDisk, vm: string): string =>
  [
    `disk ${disk.target} would become disk ${target} (${bus}) of VM ${vm}; nothing was changed`,
    `file: ${disk.path} (${disk.format}), ${sizeText(disk.virtualSizeBytes)}`,
    `serial number: ${serial ?? 'none'}`,
  ].join('\n');
