import { z } from 'zod';
import { backupDiskRecord } from './catalog.ts';
import { blobKey, uuid } from './names.ts';
import { backupType, consistency, strategy, validationState } from './states.ts';
import { validationResult } from './validation.ts';

/** What is not as the manifest of a backup says of one of its files. */
export const fileProblem = z.object({ file: blobKey, problem: z.enum(['missing', 'damaged']), message: z.string() });
export type FileProblem = z.infer<typeof fileProblem>;

/** A backup as its manifest and a look at its files tell of it: all that a catalog needs. */
export const foundBackup = z.object({
  id: uuid,
  vmName: z.string(),
  type: backupType,
  parentId: uuid.nullable(),
  chainId: uuid.nullable(),
  position: z.int().positive().nullable(),
  isolated: z.boolean(),
  endOfChain: z.boolean(),
  instant: z.iso.datetime(),
  consistency,
  host: z.string(),
  compression: z.enum(['zstd', 'none']),
  strategy,
  validation: validationState,
  validationResult: validationResult.nullable(),
  requestedBy: z.string().nullable(),
  /** What the VM was protected by. */
  offering: z.string().nullable(),
  durationMs: z.int().nonnegative(),
  /** A checkpoint of its instant was put on the VM; the next backup finds out whether it still is. */
  hasCheckpoint: z.boolean(),
  disks: z.array(backupDiskRecord),
  /** Of a copy: from where, and when. */
  copiedFrom: z.object({ repositoryId: uuid, copiedAt: z.iso.datetime() }).optional(),
  problems: z.array(fileProblem),
});
export type FoundBackup = z.infer<typeof foundBackup>;

/** A file of ours that no manifest names. */
export const surplusFile = z.object({
  key: z.string(),
  sizeBytes: z.int().nonnegative(),
  /** Its upload was not finished. */
  isUpload: z.boolean(),
});

/** All that lies in a repository's folder of one VM. */
export const foundVm = z.object({
  uuid,
  backups: z.array(foundBackup),
  /** Manifests that are there and cannot be read. */
  unreadable: z.array(z.object({ backupId: uuid, message: z.string() })),
  /** Of these the names are hidden, and were not opened: they stand with the VM's UUID as its name. With the reason. */
  sealed: z.array(z.object({ backupId: uuid, message: z.string() })).default([]),
  /** Not judged where a manifest cannot be read: that one may name them. */
  surplus: z.array(surplusFile),
});
export type FoundVm = z.infer<typeof foundVm>;

/**
 * - `missing`: the catalog, or another backup, names it; the repository does not have it.
 * - `surplus`: a file of ours that no manifest names.
 * - `damaged`: a manifest that cannot be read, a file of another length, a backup built on one that is not whole.
 * - `sealed`: backups whose names are hidden, and that host has no identity that opens them.
 * - `elsewhere`: a backup of that id is known in another repository.
 * - `skipped`: an operation was at work on the VM.
 */
export const rescanSort = z.enum(['missing', 'damaged', 'surplus', 'sealed', 'elsewhere', 'skipped']);
export type RescanSort = z.infer<typeof rescanSort>;

export interface RescanFinding {
  sort: RescanSort;
  vmUuid: string;
  backupId: string | null;
  /** Which file, in words, and what is wrong with it. */
  message: string;
}

/** What a rescan came to. */
export interface RescanSummary {
  vms: number;
  /** Manifests that could be read. */
  manifests: number;
  /** Backups that the catalog did not know. */
  added: number;
  /** Backups of which the catalog knew something else. */
  changed: number;
  findings: Record<RescanSort, number>;
  surplusBytes: number;
  /** The first of each sort. */
  told: RescanFinding[];
}

/** So many of a sort are told one by one; of more only the number. */
export const TOLD_AT_MOST = 200;

export const emptyRescan = (): RescanSummary => ({
  vms: 0,
  manifests: 0,
  added: 0,
  changed: 0,
  findings: { missing: 0, damaged: 0, surplus: 0, sealed: 0, elsewhere: 0, skipped: 0 },
  surplusBytes: 0,
  told: [],
});

export function addRescans(a: RescanSummary, b: RescanSummary): RescanSummary {
  const findings = Object.fromEntries(
    rescanSort.options.map((sort) => [sort, numberOf(a, sort) + numberOf(b, sort)]),
  ) as RescanSummary['findings'];
  const told = [...a.told, ...b.told];
  return {
    vms: a.vms + b.vms,
    manifests: a.manifests + b.manifests,
    added: a.added + b.added,
    changed: a.changed + b.changed,
    findings,
    surplusBytes: a.surplusBytes + b.surplusBytes,
    told: rescanSort.options.flatMap((sort) => told.filter((one) => one.sort === sort).slice(0, TOLD_AT_MOST)),
  };
}

/** A rescan that was begun by a former version knows fewer sorts. */
const numberOf = ({ findings }: { findings: Partial<RescanSummary['findings']> }, sort: RescanSort): number =>
  findings[sort] ?? 0;
