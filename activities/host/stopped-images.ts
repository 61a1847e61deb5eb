import { existsSync } from 'node:fs';
import { z } from 'zod';
import { checkpointName } from '../../schemas/names.ts';
import type { DiskFacts } from '../../schemas/plan.ts';
import { CommandFailed, runCommand } from '../run-command.ts';

const imageInfo = z.object({
  'format-specific': z
    .object({
      data: z
        .object({
          bitmaps: z.array(z.object({ name: z.string(), flags: z.array(z.string()) })).optional(),
        })
        .loose()
        .optional(),
    })
    .optional(),
});

const backingOfImage = z.object({ 'backing-filename': z.string().optional() });

/**
 * The persistent bitmaps of an image that no QEMU holds. One that is `in-use` was not closed properly and is
 * inconsistent; one that is not `auto` does not record.
 * Source: QEMU docs/interop/qcow2.txt, "Bitmaps extension", flags; qapi `Qcow2BitmapInfoFlags`
 */
export async function stoppedBitmaps(
  path: string,
  format: string,
  options: { signal: AbortSignal },
): Promise<DiskFacts['bitmaps']> {
  if (format !== 'qcow2') return [];
  const text = await runCommand(['qemu-img', 'info', '-U', '--output=json', '-f', format, path], options);
  const info = imageInfo.parse(JSON.parse(text));
  return (info['format-specific']?.data?.bitmaps ?? []).map(({ name, flags }) => ({
    name,
    inconsistent: flags.includes('in-use'),
    recording: flags.includes('auto'),
  }));
}

/** Bytes; what libvirt and QEMU take for a checkpoint's bitmap when nothing is said. */
const GRANULARITY_BYTES = 65_536;

/** Lays a bitmap that records from now on into a stopped image. Already there: fine. False when a QEMU holds the image. */
export async function addStoppedBitmap(
  path: string,
  backupId: string,
  options: { signal: AbortSignal },
): Promise<boolean> {
  const name = checkpointName(backupId);
  if ((await stoppedBitmaps(path, 'qcow2', options)).some((bitmap) => bitmap.name === name)) return true;
  try {
    await runCommand(
      ['qemu-img', 'bitmap', '--add', '-g', String(GRANULARITY_BYTES), '-f', 'qcow2', path, name],
      options,
    );
    return true;
  } catch (error) {
    if (error instanceof CommandFailed) return false; // the VM is starting: its image is locked
    throw error;
  }
}

/** Takes a backup's bitmap out of a stopped image; nothing to do when it is not there, or when a QEMU holds the image. */
export async function removeStoppedBitmap(
  path: string,
  format: string,
  backupId: string,
  options: { signal: AbortSignal },
): Promise<void> {
  const name = checkpointName(backupId);
  if (!(await stoppedBitmaps(path, format, options)).some((bitmap) => bitmap.name === name)) return;
  try {
    await runCommand(['qemu-img', 'bitmap', '--remove', '-f', format, path, name], options);
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
  }
}

/** Whether an image is layered on no other; one that is not there depends on nothing. */
export async function imageStandsAlone(path: string, options: { signal: AbortSignal }): Promise<boolean> {
  if (!existsSync(path)) return true;
  const text = await runCommand(['qemu-img', 'info', '-U', '--output=json', '-f', 'qcow2', path], options);
  return backingOfImage.parse(JSON.parse(text))['backing-filename'] === undefined;
}
