import { z } from 'zod';
import { uuid } from './names.ts';

/** An overlay of ours on primary storage: what a VM wrote to one disk since the instant of a backup. */
export const delta = z.object({
  backupId: uuid,
  target: z.string(),
  /** The overlay. */
  path: z.string().startsWith('/'),
  /** The image it lies on. */
  frozenPath: z.string().startsWith('/'),
  frozenFormat: z.string(),
  /** What that image was when nothing wrote to it any more, see `imageStamp`; null until it is known. */
  frozenStamp: z.string().nullable(),
});
export type Delta = z.infer<typeof delta>;

/** An image of a disk's chain as it lies there now; the lists begin with the one the VM writes to. */
export const imageLayer = z.object({
  path: z.string(),
  format: z.string(),
  /** Null where the image could not be looked at. */
  stamp: z.string().nullable(),
});
export type ImageLayer = z.infer<typeof imageLayer>;

const SUFFIX = /\.holdfast-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.qcow2$/;

/** Where the overlay of a backup goes: beside the disk, under the name of the first image that is not such an overlay. */
export const overlayPath = (imagePath: string, backupId: string): string =>
  `${withoutSuffix(imagePath)}.holdfast-${backupId}.qcow2`;

/** The backup an overlay's name tells of; undefined for images of others. */
export const backupOfOverlay = (path: string): string | undefined => SUFFIX.exec(path)?.[1];

function withoutSuffix(path: string): string {
  let name = path;
  while (SUFFIX.test(name)) name = name.replace(SUFFIX, '');
  return name;
}
