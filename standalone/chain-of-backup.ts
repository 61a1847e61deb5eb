import { diskOfFile, filesOfDisk, readManifestChain, requireFiles } from '../activities/host/restore-chain.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { Manifest } from '../schemas/manifest.ts';
import type { OpenPlace } from './open-place.ts';

export interface ChainOfBackup {
  /** Every file that the backup needs, base first, disk by disk. */
  files: { target: string; backupId: string; file: string; storedBytes: number; sha256OfSums: string }[];
  /** Why it cannot be restored, as far as lengths tell: no byte of content is read. */
  problem: string | null;
}

/** What a backup is built on, and whether it is there. */
export async function chainOfBackup({ store }: OpenPlace, manifest: Manifest): Promise<ChainOfBackup> {
  const files: ChainOfBackup['files'] = [];
  try {
    const chain = await readManifestChain(store, manifest.vm.uuid, manifest.id);
    const links = manifest.disks.flatMap(({ target }) =>
      filesOfDisk(chain, manifest.id, target).map((link) => ({
        target,
        backupId: link.backupId,
        disk: diskOfFile(chain, link),
      })),
    );
    files.push(
      ...links.map(({ target, backupId, disk: { file, storedBytes, sums } }) => ({
        target,
        backupId,
        file,
        storedBytes,
        sha256OfSums: sums.sha256,
      })),
    );
    await requireFiles(
      store,
      links.map(({ disk }) => disk),
    );
    return { files, problem: null };
  } catch (error) {
    if (!(error instanceof HoldfastError) && !(error instanceof RepositoryError)) throw error;
    return { files, problem: error.message };
  }
}
