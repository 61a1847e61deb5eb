import type { BackupRun, Manifest } from '../schemas/manifest.ts';

/** How a backup came about, as its manifest has recorded it. */
export type BackupEvidence = Pick<
  Manifest,
  'requestedBy' | 'strategy' | 'freezeMs' | 'attempts' | 'versions' | 'skippedDisks' | 'passedOver'
> & {
  /** Missing in backups of before 0.3.0. */
  run?: BackupRun;
  /** By target; missing in backups of before 0.3.0. */
  resumedSegments?: Record<string, number>;
  /** Why a guest that was to be frozen if possible was not. */
  notFrozen: string | null;
};

export const evidenceOf = (manifest: Manifest): BackupEvidence => ({
  requestedBy: manifest.requestedBy,
  ...(manifest.run === undefined ? {} : { run: manifest.run }),
  ...(manifest.strategy === undefined ? {} : { strategy: manifest.strategy }),
  freezeMs: manifest.freezeMs,
  notFrozen: manifest.source.metadata['notFrozen'] ?? null,
  attempts: manifest.attempts,
  ...(manifest.resumedSegments === undefined ? {} : { resumedSegments: manifest.resumedSegments }),
  versions: manifest.versions,
  skippedDisks: manifest.skippedDisks,
  passedOver: manifest.passedOver,
});
