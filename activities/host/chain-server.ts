import { chown } from 'node:fs/promises';
import { serveInBackground, type ImageServer } from './image-server.ts';

/** A qcow2 file and what it is layered on, as QEMU's tools are told: they open these files and no others. */
interface Layer {
  driver: 'qcow2';
  file: { driver: 'file'; filename: string };
  /** null: none, whatever the file's header says. */
  backing: Layer | null;
  'read-only': true;
}

/** @param files base first */
export function layersOf(files: readonly string[]): Layer | null {
  return files.reduce<Layer | null>(
    (backing, filename) => ({ driver: 'qcow2', file: { driver: 'file', filename }, backing, 'read-only': true }),
    null,
  );
}

/**
 * Starts a `qemu-nbd` that serves a chain of stored files, read-only. The files stay closed to QEMU's user, who needs no
 * access to the repository. It outlives the worker, and is ended by `endImageServer`.
 * @param files base first
 */
export async function startChainServer(
  {
    files,
    exportName,
    owner,
  }: { files: readonly string[]; exportName: string; owner: { uid: number; gid: number } | undefined },
  server: ImageServer,
  options: { signal: AbortSignal },
): Promise<void> {
  const { socketPath, pidFile } = server;
  await serveInBackground(
    [
      'qemu-nbd',
      ...['--fork', '--persistent', '--read-only', '--shared', '4'],
      ...['--pid-file', pidFile, '--socket', socketPath, '--export-name', exportName],
      `json:${JSON.stringify(layersOf(files))}`,
    ],
    server,
    options,
  );
  if (owner !== undefined && process.getuid?.() === 0) await chown(socketPath, owner.uid, owner.gid);
}
