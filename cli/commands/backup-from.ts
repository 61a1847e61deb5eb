import { backupOfManifest } from '../../operations/backup-of-manifest.ts';
import { evidenceOf } from '../../operations/evidence.ts';
import type { Backup } from '../../schemas/backup.ts';
import { evidenceText } from '../evidence-text.ts';
import type { Alone } from '../from-repository.ts';
import { sizeText, table } from '../output.ts';
import { backupTable, backupText } from './backup-text.ts';

/** `backup ls --from`: what the manifests tell. Those that cannot be read are listed too, as far as they are known. */
export async function listFrom({ output, place }: Alone, vm: string | undefined): Promise<void> {
  const { listStored } = await import('../../standalone/stored-backups.ts');
  const { manifests, damaged } = await listStored(place, vm);
  const backups = manifests.map((manifest) => backupOfManifest(manifest, place.place));
  output.result([...backups, ...damaged], () =>
    [
      backupTable(backups, `no backups in ${place.place}`),
      ...damaged.map(({ file, damage }) => `damaged: ${file}: ${damage}`),
    ].join('\n'),
  );
}

/** `backup show --from`: the same as with a catalog, and whether the files of its chain are all there. */
export async function showFrom({ output, place }: Alone, id: string, { vm }: { vm?: string }): Promise<void> {
  const { findStored } = await import('../../standalone/stored-backups.ts');
  const { chainOfBackup } = await import('../../standalone/chain-of-backup.ts');
  const { manifest, warnings } = await findStored(place, { id, vm });
  const chain = await chainOfBackup(place, manifest);
  const { validationResult } = manifest;
  const backup: Backup = backupOfManifest(manifest, place.place);
  const evidence = evidenceOf(manifest);
  const shown = {
    ...backup,
    evidence,
    chain,
    ...(validationResult === undefined ? {} : { validationResult }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
  output.result(shown, () =>
    [
      backupText(backup),
      '',
      evidenceText(evidence),
      '',
      `validation: ${backup.validation}`,
      chain.problem === null
        ? 'all files of its chain are there, at their full length'
        : `cannot be restored: ${chain.problem}`,
      table(
        ['DISK', 'FILES, THE BASE FIRST', 'STORED'],
        chain.files.map(({ target, file, storedBytes }) => [target, file, sizeText(storedBytes)]),
        'no files',
      ),
      ...warnings.map((warning) => `note: ${warning}`),
    ].join('\n'),
  );
}
