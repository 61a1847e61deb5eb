import { isDeepStrictEqual } from 'node:util';
import type { BackupRecord, CheckpointRecord } from '../../catalog/contract.ts';
import type { KnownChain, RescannedBackup, RescannedVm } from '../../catalog/rescans.ts';
import { manifestKey } from '../../repository/layout.ts';
import type { BackupDiskRecord } from '../../schemas/catalog.ts';
import type { FailureType } from '../../schemas/failures.ts';
import type { FoundBackup, FoundVm, RescanFinding } from '../../schemas/rescan.ts';
import type { BackupState } from '../../schemas/states.ts';

/** What the catalog knows of one VM's backups in the repository. */
export interface KnownVm {
  /** In whatever state. */
  records: readonly BackupRecord[];
  chains: readonly KnownChain[];
  checkpoints: readonly CheckpointRecord[];
  /** The repository of backups that are found here and known as another's. */
  elsewhere: ReadonlyMap<string, string>;
}

export interface JudgedVm {
  /** What the catalog is to hold; only what is new, or other than it holds now. */
  rescanned: RescannedVm;
  added: number;
  changed: number;
  findings: RescanFinding[];
}

/** Why a backup is not whole. */
interface Cause {
  type: FailureType;
  message: string;
}

const LIVING: BackupState[] = ['BackedUp', 'Restoring'];
/** Of a backup that is being taken, or did not come about, the repository has nothing yet, or nothing any more. */
const NEVER_STORED: BackupState[] = ['Queued', 'BackingUp', 'Failed', 'Expunged'];
/** Why a chain is over of which only copies were found: it goes on where its own backups are found too. */
export const COPIES_ALONE = 'copies-alone';
/** As many as ever stay on a VM; which of them live is asked of the VM when the next backup is planned. */
const MOST_CHECKPOINTS = 16;
/** Marks of this kind are taken back when the files are found whole again; see `damageOf`. */
export const MARK = 'files: ';
export const isMarked = (damage: string | null): boolean => damage?.startsWith(MARK) === true;

/**
 * What a catalog makes of the manifests of one VM. The repository decides what is stored, the catalog what people have said
 * of it: a hidden backup stays hidden, and what was deleted comes back only with its manifest.
 */
export function judgeRescan(found: FoundVm, known: KnownVm, repository: string): JudgedVm {
  const knownById = new Map(known.records.map((record) => [record.backup.id, record]));
  const here = found.backups.filter(({ id }) => !known.elsewhere.has(id));
  const causes = causesOf(here, found, knownById);
  const findings: RescanFinding[] = found.backups.flatMap(({ id }) => {
    const other = known.elsewhere.get(id);
    const message = `backup ${id} is known in repository ${other ?? ''}, and left as it is there`;
    return other === undefined ? [] : [{ sort: 'elsewhere' as const, vmUuid: found.uuid, backupId: id, message }];
  });

  const wanted = new Map<string, RescannedBackup>();
  for (const backup of parentsFirst(here)) {
    const record = knownById.get(backup.id);
    if (record !== undefined && (record.backup.state === 'Queued' || record.backup.state === 'BackingUp')) continue;
    wanted.set(backup.id, rescannedBackup(backup, record, causes.get(backup.id) ?? null));
  }
  for (const record of known.records) {
    const { id, state } = record.backup;
    const cause = causes.get(id);
    if (wanted.has(id) || cause === undefined || NEVER_STORED.includes(state)) continue;
    wanted.set(id, { ...asKnown(record), ...stateWith(record, cause) });
  }
  const stubs = missingParents(found, here, wanted, knownById, causes);

  for (const [id, { type, message }] of causes) {
    const state = (wanted.get(id) ?? knownById.get(id)?.backup)?.state;
    if (state !== undefined && NEVER_STORED.includes(state)) continue;
    const sort = type === 'BackupFileMissing' ? 'missing' : 'damaged';
    findings.push({ sort, vmUuid: found.uuid, backupId: id, message });
  }
  for (const { key, sizeBytes, isUpload } of found.surplus) {
    const message = `${key}, ${sizeBytes} bytes: ${isUpload ? 'an upload that was not finished' : 'no manifest names it'}`;
    findings.push({ sort: 'surplus', vmUuid: found.uuid, backupId: null, message });
  }

  const nameless = found.sealed.filter(({ backupId }) => wanted.get(backupId)?.vmName === found.uuid);
  const [sealed] = nameless;
  if (sealed !== undefined) {
    const message = `VM ${found.uuid}: its name, and where its disks lay, are hidden in ${nameless.length} backups: ${sealed.message}`;
    findings.push({ sort: 'sealed', vmUuid: found.uuid, backupId: null, message });
  }

  const all = [...stubs, ...wanted.values()];
  const chains = chainsOf(all, known, knownById);
  for (const { id, newest, state } of chains) {
    const last = newest === null ? undefined : wanted.get(newest);
    if (state === 'ended' && last?.chainId === id) last.endOfChain = true;
  }
  const changes = all.filter((backup) => {
    const record = knownById.get(backup.id);
    if (record === undefined) return true;
    return !isDeepStrictEqual(asKnown(record), { ...backup, validationResult: null });
  });
  const added = changes.filter(({ id }) => !knownById.has(id)).length;
  const newest = here.reduce<FoundBackup | undefined>(
    (a, b) => (a === undefined || a.instant < b.instant ? b : a),
    undefined,
  );
  return {
    rescanned: {
      uuid: found.uuid,
      name: newest?.vmName ?? known.records[0]?.backup.vm.name ?? found.uuid,
      host: newest?.host ?? known.records[0]?.backup.host ?? '',
      repository,
      backups: changes,
      chains: chains.map(({ id, state, size, endedReason }) => ({ id, state, size, endedReason })),
      checkpoints: checkpointsOf(here, wanted, chains, known),
    },
    added,
    changed: changes.length - added,
    findings,
  };
}

const noManifest = (vmUuid: string, backupId: string): string =>
  `its manifest ${manifestKey(vmUuid, backupId)} is missing`;

/** Of each backup that cannot be restored whole why, by id: of itself, or of one that it is built on. */
function causesOf(
  here: readonly FoundBackup[],
  found: FoundVm,
  knownById: ReadonlyMap<string, BackupRecord>,
): Map<string, Cause> {
  const causes = new Map<string, Cause>();
  for (const { backupId, message } of found.unreadable) {
    causes.set(backupId, { type: 'IntegrityMismatch', message: `its manifest cannot be read: ${message}` });
  }
  const byId = new Map(here.map((backup) => [backup.id, backup]));
  for (const { backup, damage } of knownById.values()) {
    if (byId.has(backup.id) || causes.has(backup.id) || NEVER_STORED.includes(backup.state)) continue;
    if (backup.state === 'Removed') continue; // it may have been on its way out
    if (backup.instant === null && !isMarked(damage)) continue; // it never came about
    causes.set(backup.id, {
      type: 'BackupFileMissing',
      message: noManifest(found.uuid, backup.id),
    });
  }
  const broken = new Map<string, Cause>(); // by stored file
  for (const { id, parentId, disks, problems } of parentsFirst(here)) {
    for (const { file, backingFile } of disks) {
      const own = problems.find((problem) => problem.file === file);
      const cause =
        own === undefined
          ? causeBeneath(backingFile, parentId, found.uuid, byId, causes, broken)
          : {
              type: own.problem === 'missing' ? ('BackupFileMissing' as const) : ('IntegrityMismatch' as const),
              message: own.message,
            };
      if (cause === null) continue;
      broken.set(file, cause);
      if (!causes.has(id)) causes.set(id, cause);
    }
  }
  return causes;
}

function causeBeneath(
  backingFile: string | null,
  parentId: string | null,
  vmUuid: string,
  byId: ReadonlyMap<string, FoundBackup>,
  causes: ReadonlyMap<string, Cause>,
  broken: ReadonlyMap<string, Cause>,
): Cause | null {
  if (backingFile === null) return null;
  if (parentId === null) {
    return { type: 'IntegrityMismatch', message: `it names no parent, though it is built on ${backingFile}` };
  }
  const parent = byId.get(parentId);
  if (parent === undefined) {
    const why = causes.get(parentId);
    const message = `it is built on backup ${parentId}: ${why?.message ?? noManifest(vmUuid, parentId)}`;
    return { type: why?.type ?? 'BackupFileMissing', message };
  }
  if (!parent.disks.some(({ file }) => file === backingFile)) {
    return { type: 'IntegrityMismatch', message: `no manifest names ${backingFile}, which it is built on` };
  }
  const beneath = broken.get(backingFile);
  if (beneath === undefined) return null;
  const { message } = beneath;
  return {
    ...beneath,
    message: message.startsWith('it is built on') ? message : `it is built on backup ${parent.id}: ${message}`,
  };
}

/** Parents that nobody has, neither catalog nor repository: listed as what they are, so that their children have them. */
function missingParents(
  found: FoundVm,
  here: readonly FoundBackup[],
  wanted: Map<string, RescannedBackup>,
  knownById: ReadonlyMap<string, BackupRecord>,
  causes: Map<string, Cause>,
): RescannedBackup[] {
  const unknown = new Map<string, FoundBackup | undefined>();
  for (const { backupId } of found.unreadable) unknown.set(backupId, undefined);
  for (const backup of here) if (backup.parentId !== null) unknown.set(backup.parentId, backup);
  return [...unknown].flatMap(([id, child]) => {
    if (wanted.has(id) || knownById.has(id)) return [];
    const cause = causes.get(id) ?? {
      type: 'BackupFileMissing' as const,
      message: noManifest(found.uuid, id),
    };
    causes.set(id, cause);
    return [stubOf(id, found, child, cause)];
  });
}

function stubOf(id: string, found: FoundVm, child: FoundBackup | undefined, cause: Cause): RescannedBackup {
  const any = child ?? found.backups[0];
  const position = (child?.position ?? 1) - 1;
  return {
    id,
    vmName: any?.vmName ?? found.uuid,
    type: position <= 1 ? 'full' : 'incremental',
    state: 'Error',
    parentId: null,
    chainId: child?.chainId ?? null,
    position: position < 1 ? null : position,
    isolated: false,
    endOfChain: false,
    consistency: null,
    instant: null,
    host: any?.host ?? '',
    codec: 'none',
    compression: 'None',
    strategy: 'checkpoint',
    validation: 'NotValidated',
    validationResult: null,
    requestedBy: null,
    offering: null,
    durationMs: 0,
    disks: [],
    damage: `${MARK}${cause.message}`,
    failure: cause,
  };
}

export function rescannedBackup(
  found: FoundBackup,
  record: BackupRecord | undefined,
  cause: Cause | null,
): RescannedBackup {
  const known = record === undefined ? undefined : asKnown(record);
  const { problems: _, hasCheckpoint: __, copiedFrom: ___, compression: codec, ...stored } = found;
  // What was taken over without its names gets them when they can be opened.
  const named = known === undefined || known.vmName === record?.backup.vm.uuid ? stored : known;
  return {
    id: found.id,
    vmName: named.vmName,
    type: stored.type,
    ...(record === undefined
      ? { state: cause === null ? ('BackedUp' as const) : ('Error' as const) }
      : { state: stateWith(record, cause).state }),
    parentId: stored.parentId,
    chainId: stored.chainId,
    position: stored.position,
    isolated: stored.isolated,
    endOfChain: stored.endOfChain || known?.endOfChain === true,
    consistency: stored.consistency,
    instant: stored.instant,
    host: named.host,
    codec,
    compression:
      codec === 'zstd' ? 'Compressed' : known?.compression === 'CompressionError' ? 'CompressionError' : 'None',
    strategy: known?.strategy ?? stored.strategy,
    validation: known === undefined || known.validation === 'NotValidated' ? stored.validation : known.validation,
    validationResult: stored.validationResult,
    requestedBy: known?.requestedBy ?? stored.requestedBy,
    offering: known?.offering ?? stored.offering,
    durationMs: stored.durationMs,
    disks: stored.disks.map((disk) => withIdentity(disk, record)).toSorted((a, b) => a.number - b.number),
    ...(record === undefined
      ? { damage: cause === null ? null : `${MARK}${cause.message}`, failure: cause }
      : { damage: stateWith(record, cause).damage, failure: stateWith(record, cause).failure }),
  };
}

/** Where names are hidden, a manifest does not tell which disk of the VM it was; a catalog that knows keeps it. */
function withIdentity(disk: BackupDiskRecord, record: BackupRecord | undefined): BackupDiskRecord {
  const before = record?.disks.find(({ file }) => file === disk.file);
  if (before === undefined || disk.sourcePath !== null) return disk;
  const { serial, sourcePath, sourceMark } = before;
  return { ...disk, serial, sourcePath, ...(sourceMark === undefined ? {} : { sourceMark }) };
}

/** What becomes of a backup that the catalog knows, now that its files were looked at. */
function stateWith(
  { backup: { state }, damage, failure }: BackupRecord,
  cause: Cause | null,
): Pick<RescannedBackup, 'state' | 'damage' | 'failure'> {
  if (cause !== null) {
    const mark = damage === null || isMarked(damage) ? `${MARK}${cause.message}` : damage; // another's mark says more
    return { state: state === 'Removed' ? 'Removed' : 'Error', damage: mark, failure: cause };
  }
  const isKept = state === 'Removed' || state === 'Restoring' || state === 'BackedUp';
  return {
    state: isKept ? state : 'BackedUp',
    damage: isMarked(damage) ? null : damage,
    failure: isKept ? failure : null,
  };
}

/** What the catalog holds of a backup, for comparison. */
function asKnown({ backup, disks, strategy, requestedBy, offering, damage, failure }: BackupRecord): RescannedBackup {
  return {
    id: backup.id,
    vmName: backup.vm.name,
    type: backup.type,
    state: backup.state,
    parentId: backup.parentId,
    chainId: backup.chainId,
    position: backup.position,
    isolated: backup.isolated,
    endOfChain: backup.endOfChain,
    consistency: backup.consistency,
    instant: backup.instant,
    host: backup.host,
    codec: backup.compression === 'Compressed' ? 'zstd' : 'none',
    compression: backup.compression,
    strategy,
    validation: backup.validation,
    validationResult: null,
    requestedBy,
    offering,
    durationMs: backup.durationMs,
    disks,
    damage,
    failure,
  };
}

interface JudgedChain extends KnownChain {
  /** Its newest backup that is whole. */
  newest: string | null;
}

/** The chain of the newest backup goes on, unless it is over; all others are over. */
function chainsOf(
  all: readonly RescannedBackup[],
  known: KnownVm,
  knownById: ReadonlyMap<string, BackupRecord>,
): JudgedChain[] {
  const members = new Map<
    string,
    Pick<RescannedBackup, 'id' | 'state' | 'chainId' | 'instant' | 'position' | 'endOfChain'>
  >();
  for (const record of knownById.values()) members.set(record.backup.id, asKnown(record));
  for (const backup of all) members.set(backup.id, backup);
  const inChains = [...members.values()].filter(({ chainId }) => chainId !== null);
  const living = inChains
    .filter(({ state, instant }) => LIVING.includes(state) && instant !== null)
    .toSorted((a, b) => ((a.instant ?? '') < (b.instant ?? '') ? 1 : -1));
  const [last] = living;
  const knownChains = new Map(
    known.chains.filter(({ endedReason }) => endedReason !== COPIES_ALONE).map((chain) => [chain.id, chain]),
  );
  return [...Map.groupBy(inChains, ({ chainId }) => chainId ?? '')].map(([id, of]) => {
    const before = knownChains.get(id);
    const newest = living.find(({ chainId }) => chainId === id)?.id ?? null;
    const size = of.filter(({ instant }) => instant !== null).length;
    const isOver = of.some(({ endOfChain }) => endOfChain);
    const isOpen = last?.chainId === id && !isOver && before?.state !== 'ended';
    if (isOpen || before?.state === 'ended') {
      return { id, state: before?.state ?? 'open', size, endedReason: before?.endedReason ?? null, newest };
    }
    if (before?.state === 'open' && of.some(({ state }) => state === 'BackingUp')) return { ...before, newest };
    return { id, state: 'ended', size, endedReason: isOver ? 'chain-size-reached' : 'superseded', newest };
  });
}

/** Of the open chain every checkpoint that may live on the VM: the newest is the parent of the next, the others stand by. */
function checkpointsOf(
  here: readonly FoundBackup[],
  wanted: ReadonlyMap<string, RescannedBackup>,
  chains: readonly JudgedChain[],
  known: KnownVm,
): RescannedVm['checkpoints'] {
  const open = new Set(chains.filter(({ state }) => state === 'open').map(({ id }) => id));
  const live = here
    .filter(({ id, chainId, hasCheckpoint }) => {
      const state = wanted.get(id)?.state;
      return hasCheckpoint && chainId !== null && open.has(chainId) && state !== undefined && LIVING.includes(state);
    })
    .toReversed() // youngest first
    .slice(0, MOST_CHECKPOINTS);
  return live.flatMap(({ id }, index) => {
    const before = known.checkpoints.find(({ backupId }) => backupId === id)?.state;
    if (before === 'retired' || before === 'pending') return [];
    const state = index === 0 ? ('current' as const) : ('kept' as const);
    return before === state ? [] : [{ backupId: id, state }];
  });
}

/** Each after the one it is built on; a circle, which no version of ours writes, is cut. */
export function parentsFirst(backups: readonly FoundBackup[]): FoundBackup[] {
  const byId = new Map(backups.map((backup) => [backup.id, backup]));
  const ordered = new Set<FoundBackup>();
  for (const backup of backups) {
    const line: FoundBackup[] = [];
    for (
      let next: FoundBackup | undefined = backup;
      next !== undefined && !ordered.has(next) && !line.includes(next);
      next = next.parentId === null ? undefined : byId.get(next.parentId)
    ) {
      line.push(next);
    }
    for (const one of line.toReversed()) ordered.add(one);
  }
  return [...ordered];
}
