import { z } from 'zod';
import type { DomainDisk } from '../../libvirt/domain-xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import type { DiskFacts } from '../../schemas/plan.ts';

type Bitmaps = DiskFacts['bitmaps'];

const blockDevices = z.array(
  z.object({
    qdev: z.string().optional(),
    inserted: z
      .object({
        'node-name': z.string().optional(),
        'dirty-bitmaps': z
          .array(
            z.object({
              name: z.string().optional(),
              persistent: z.boolean(),
              recording: z.boolean(),
              inconsistent: z.boolean().optional(),
            }),
          )
          .optional(),
      })
      .optional(),
  }),
);

/**
 * Takes a bitmap out of a running VM's active images. libvirt does so only for checkpoints it has a record of, and not
 * when the bitmap is inconsistent; QEMU would refuse to resize the disk for as long as it is there.
 */
export async function removeRunningBitmap(
  libvirt: Libvirt,
  domain: Domain,
  name: string,
  options: { signal: AbortSignal },
): Promise<void> {
  const devices = blockDevices.parse(await libvirt.monitorCommand(domain, { execute: 'query-block' }, options));
  for (const { inserted } of devices) {
    const node = inserted?.['node-name'];
    if (node === undefined || inserted?.['dirty-bitmaps']?.some((bitmap) => bitmap.name === name) !== true) continue;
    const command = { execute: 'block-dirty-bitmap-remove', arguments: { node, name } };
    await libvirt.monitorCommand(domain, command, options);
  }
}

/**
 * The persistent dirty bitmaps of a running VM's active images, by disk target. QEMU is the one who knows: the image's
 * own list is brought up to date only when it is closed.
 * Source: QEMU qapi/block-core.json, `query-block`; libvirt gives each disk's device the alias of its XML
 */
export async function runningBitmaps(
  libvirt: Libvirt,
  domain: Domain,
  disks: DomainDisk[],
  options: { signal: AbortSignal },
): Promise<Map<string, Bitmaps>> {
  const answer = await libvirt.monitorCommand(domain, { execute: 'query-block' }, options);
  const devices = blockDevices.parse(answer);
  return new Map(
    disks.map(({ target, alias }) => {
      const device = devices.find(
        ({ qdev }) => qdev !== undefined && alias !== null && qdev.split('/').includes(alias),
      );
      const bitmaps = device?.inserted?.['dirty-bitmaps'] ?? [];
      return [
        target,
        bitmaps.flatMap(({ name, persistent, recording, inconsistent }) =>
          name !== undefined && persistent ? [{ name, recording, inconsistent: inconsistent ?? false }] : [],
        ),
      ];
    }),
  );
}
