import type { FoundBackup, FoundVm } from '../../schemas/rescan.ts';
import { disk } from '../catalog/records.ts';

export const VM = '5b1f6f0a-57a4-4d55-9c0c-0e5a1b1c2d3e';
/** Backups are called by a letter, their instants follow the alphabet. */
export const idOf = (letter: string): string => '00000000-0000-4000-8000-000000000000'.replaceAll('0', letter);
export const letterOf = (id: string): string => id.slice(0, 1);
export const fileOf = (letter: string, target = 'vda'): string => `${VM}/${target}/${letter}.qcow2`;

/** A backup of `chain` on `parent`, or a full that begins it. */
export const backup = (
  letter: string,
  chain: string,
  parent: string | null,
  given: Partial<FoundBackup> = {},
): FoundBackup => ({
  id: idOf(letter),
  vmName: 'web-1',
  type: parent === null ? 'full' : 'incremental',
  parentId: parent === null ? null : idOf(parent),
  chainId: idOf(chain),
  position: letter.charCodeAt(0) - chain.charCodeAt(0) + 1,
  isolated: false,
  endOfChain: false,
  instant: `2026-11-21T1${letter.charCodeAt(0) - 97}:00:00.000Z`,
  consistency: 'crash',
  host: 'kvm-1',
  compression: 'zstd',
  strategy: 'checkpoint',
  validation: 'NotValidated',
  validationResult: null,
  requestedBy: null,
  offering: null,
  durationMs: 1,
  hasCheckpoint: true,
  disks: [
    disk({
      file: fileOf(letter),
      backingFile: parent === null ? null : fileOf(parent),
      type: parent === null ? 'full' : 'incremental',
    }),
  ],
  problems: [],
  ...given,
});

export const lost = (letter: string) => ({
  problems: [{ file: fileOf(letter), problem: 'missing' as const, message: `${letter}'s file is missing` }],
});
export const found = (backups: FoundBackup[], given: Partial<FoundVm> = {}): FoundVm => ({
  uuid: VM,
  backups,
  unreadable: [],
  sealed: [],
  surplus: [],
  ...given,
});
export const LINE = [backup('a', 'a', null), backup('b', 'a', 'a'), backup('c', 'a', 'b')];
