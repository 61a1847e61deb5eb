import { stat } from 'node:fs/promises';
import { z } from 'zod';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import type { ImageLayer } from '../../schemas/delta.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { CommandFailed, runCommand } from '../run-command.ts';
import { isNotFound } from './json-notes.ts';
import { powerOf } from './power.ts';

/** QEMU's own chains stay far below; a ring of images would go on for ever. */
const MAX_LAYERS = 128;

/** The images of each disk as they really lie on one another, by target, the one that is written to first. */
export type ImageChains = Map<string, ImageLayer[]>;

/**
 * The real chains of a domain: what QEMU has open, or, of a domain that does not run, what the images' headers say.
 * Disks that are no local images are left out.
 * @throws HoldfastError DeltaAnomaly when an image of a chain is missing or names what is below it without its format
 */
export async function imageChains(
  libvirt: Libvirt,
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<{ isRunning: boolean; chains: ImageChains }> {
  const isRunning = powerOf((await libvirt.state(domain, options)).state) !== 'shutoff';
  const { disks } = parseDomainXml(await libvirt.domainXml(domain, { inactive: !isRunning }, options));
  const chains: ImageChains = new Map();
  for (const disk of disks) {
    if (disk.device !== 'disk' || disk.sourcePath === null) continue;
    const top = { path: disk.sourcePath, format: disk.format };
    if (!isRunning) {
      chains.set(disk.target, await storedChain(top, options));
      continue;
    }
    const layers = [top, ...disk.backingChain.map(({ path, format }) => ({ path, format: format ?? 'raw' }))];
    const local = layers.every((layer): layer is { path: string; format: string } => layer.path !== null);
    if (local) chains.set(disk.target, await Promise.all(layers.map(withStamp)));
  }
  return { isRunning, chains };
}

const imageInfo = z.object({
  'backing-filename': z.string().optional(),
  'full-backing-filename': z.string().optional(),
  'backing-filename-format': z.string().optional(),
});

/** Follows the headers, each image opened in the format that the one above names: never one that its bytes suggest. */
export async function storedChain(
  top: { path: string; format: string },
  options: { signal: AbortSignal },
): Promise<ImageLayer[]> {
  const layers: ImageLayer[] = [];
  for (let next = top; ;) {
    if (layers.length === MAX_LAYERS) throw anomaly(`${top.path} has more than ${MAX_LAYERS} images below it`);
    const { path, format } = next;
    const layer = await withStamp(next);
    if (layer.stamp === null) throw anomaly(`image ${path} is missing, which ${top.path} is built on`);
    layers.push(layer);
    if (format === 'raw') break;
    const text = await runCommand(['qemu-img', 'info', '-U', '--output=json', '-f', format, path], options).catch(
      (error: unknown) => {
        if (error instanceof CommandFailed)
          throw anomaly(`image ${path} cannot be read as ${format}: ${error.message}`);
        throw error;
      },
    );
    const info = imageInfo.parse(JSON.parse(text));
    const below = info['full-backing-filename'] ?? info['backing-filename'];
    if (below === undefined) break;
    const belowFormat = info['backing-filename-format'];
    if (belowFormat === undefined || !below.startsWith('/')) {
      throw anomaly(
        `image ${path} is built on ${below} ${belowFormat === undefined ? 'without its format' : ''}`.trim(),
      );
    }
    next = { path: below, format: belowFormat };
  }
  return layers;
}

const anomaly = (message: string): HoldfastError => new HoldfastError('DeltaAnomaly', message);

const withStamp = async ({ path, format }: { path: string; format: string }): Promise<ImageLayer> => ({
  path,
  format,
  stamp: await frozenStamp(path),
});

/**
 * Changes when an image is written to or replaced; holds across a restart of the host, whose device numbers may change.
 * Null when nothing is there.
 */
export async function frozenStamp(path: string): Promise<string | null> {
  try {
    const info = await stat(path, { bigint: true });
    if (info.isBlockDevice()) return `device:${info.rdev}`;
    return `${info.ino}:${info.size}:${info.mtimeNs}`;
  } catch (error) {
    if (isNotFound(error)) return null;
    throw error;
  }
}
