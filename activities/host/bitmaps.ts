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
