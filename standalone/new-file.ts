import { open } from 'node:fs/promises';
import { errnoOf } from '../repository/file-errors.ts';
import { HoldfastError } from '../schemas/failures.ts';

/**
 * Writes a small file that was not there before, durably.
 * @param onCreated called when it is there, still empty
 * @throws HoldfastError DestinationExists
 */
export async function writeNewFile(
  { path, content, mode }: { path: string; content: Uint8Array; mode: number },
  onCreated: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await using file = await open(path, 'wx', mode).catch((error: unknown) => {
    if (errnoOf(error) !== 'EEXIST') throw error;
    throw new HoldfastError('DestinationExists', `${path} exists; it was left alone`);
  });
  await onCreated();
  await file.writeFile(content);
  await file.sync();
}
