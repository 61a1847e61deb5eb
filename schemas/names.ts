import { z } from 'zod';

/** RFC 4122 text form, lower case. */
export const uuid = z.string().regex(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, {
  message: 'must be a UUID in lower case, like 6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e',
});

/**
 * A name a person gives: a host, repository or offering. It becomes part of queue names and paths, so it is narrow:
 * letters, digits, dot, dash and underscore, not starting with a dot or dash.
 */
export const plainName = z
  .string()
  .max(64, { message: 'must have at most 64 characters' })
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/, {
    message: 'may hold letters, digits, ".", "_" and "-", and may not start with "." or "-"',
  });

/** A domain's name as libvirt accepts it, without what could leave a folder: no slash, no control character. */
export const vmName = z
  .string()
  .min(1)
  .max(255)
  .regex(/^(?!\.{1,2}$)[^/\u0000-\u001f\u007f]+$/, {
    message: 'must be a VM name or UUID, without "/" and control characters',
  });

/** A disk's target as in domain XML: vda, sdb, xvdc. */
export const diskTarget = z.string().regex(/^[a-z]{2,8}[a-z0-9]{0,8}$/, { message: 'must be a disk target like vda' });

/** A file name inside a repository folder: one path segment. */
export const fileName = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*$/)
  .max(200);

/** A key of a blob: segments of `fileName` joined by "/", relative to the repository. */
export const blobKey = z
  .string()
  .max(1024)
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]*(\/[A-Za-z0-9_][A-Za-z0-9._-]*)*$/, {
    message: 'must be a relative key without "..", empty or hidden segments',
  });

/** Name of the libvirt checkpoint and the QEMU bitmap that belong to a backup. */
export const checkpointName = (backupId: string): string => `holdfast-${backupId}`;

/** The id of the backup a checkpoint of ours belongs to; undefined for checkpoints of other tools. */
export function backupOfCheckpoint(checkpoint: string): string | undefined {
  const match = /^holdfast-([0-9a-f-]{36})$/.exec(checkpoint);
  return match?.[1];
}

/** A path on a host as it is, without "." and ".." and links of its own making. */
export const filePath = z
  .string()
  .max(4096)
  .regex(/^(\/(?!\.{1,2}(\/|$))[^/\u0000-\u001f\u007f]+)+$/, {
    message: 'must be an absolute path without "." and ".."',
  });
