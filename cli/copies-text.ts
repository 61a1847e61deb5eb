import type { BackupCopy } from '../schemas/copy.ts';
import { sizeText } from './output.ts';

/** For a table: the repositories, with the state where it is not `Copied`. */
export const copiesCell = (copies: BackupCopy[] = []): string | null =>
  copies.map(({ repository, state }) => (state === 'Copied' ? repository : `${repository} (${state})`)).join(', ') ||
  null;

/** A line for each copy. */
export const copiesText = (copies: BackupCopy[] = []): string[] =>
  copies.map(({ repository, state, storedBytes, copiedAt, verifiedAt, damage, failure }) =>
    [
      `copy in ${repository}: ${state}`,
      ...(copiedAt === null ? [] : [`${sizeText(storedBytes)} since ${copiedAt}`]),
      ...(verifiedAt === null ? [] : [`verified ${verifiedAt}`]),
      ...(damage === null ? [] : [`damaged: ${damage}`]),
      ...(failure === null ? [] : [`${failure.type}: ${failure.message}`]),
    ].join(', '),
  );
