import type { Backup } from '../schemas/backup.ts';
import type { Manifest } from '../schemas/manifest.ts';

/** A stored backup as scripts see it, told by its manifest alone. @param repository the place, or its name in a catalog */
export const backupOfManifest = (manifest: Manifest, repository: string): Backup => ({
  id: manifest.id,
  vm: manifest.vm,
  type: manifest.type,
  state: 'BackedUp',
  parentId: manifest.parentId,
  chainId: manifest.chainId,
  position: manifest.position,
  isolated: manifest.isolated,
  endOfChain: manifest.endOfChain,
  consistency: manifest.consistency,
  instant: manifest.instant,
  host: manifest.host,
  repository,
  compression: manifest.compression === 'zstd' ? 'Compressed' : 'None',
  validation: manifest.validation,
  disks: manifest.disks.map((disk) => ({
    target: disk.target,
    type: disk.type,
    fullReason: disk.fullReason,
    file: disk.file,
    virtualSizeBytes: disk.virtualSizeBytes,
    changedBytes: disk.changedBytes,
    readBytes: disk.readBytes,
    storedBytes: disk.storedBytes,
  })),
  storedBytes: manifest.disks.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
  durationMs: manifest.durationMs,
});
