import { readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openChainFiles } from '../activities/host/chain-files.ts';
import { isNotFound, writeJson } from '../activities/host/json-notes.ts';
import { openRepository } from '../repository/identity.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { keysFor } from '../repository/repository-keys.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import { REPOSITORY_FILE } from '../repository/layout.ts';
import { holdAlone } from '../workers/single-instance.ts';
import { serveDisks } from './serve-disks.ts';
import { gatewaySpec, type GatewaySpec } from './spec.ts';
import { isSegmentFolderOff, openSegmentFolder, type KeptSegments } from './segment-folder.ts';
import { GATEWAY_LOCK, ProblemLog, SEGMENT_FOLDER, STATUS_FILE } from './status.ts';

/** Another process serves the same; it is given this long to end. */
const ALONE_WITHIN_MS = 5000;
const LOOK_EVERY_MS = 10_000;

/**
 * Serves what the spec says until the signal, or until the spec is gone: whoever removes it wants no gateway any more.
 * @throws what `serveDisks` throws; RepositoryError; SecretError
 */
export async function runGateway(specPath: string, signal: AbortSignal, log: (line: string) => void): Promise<void> {
  const folder = dirname(specPath);
  const spec = gatewaySpec.parse(JSON.parse(await readFile(specPath, 'utf8')));
  await using _lock = await holdAlone(join(folder, GATEWAY_LOCK), AbortSignal.timeout(ALONE_WITHIN_MS), log);
  if (!(await isThere(specPath))) return;
  const problems = new ProblemLog(log, (found) => writeJson(folder, STATUS_FILE, { problems: found }));
  const kept = await segmentFolderOf(spec, folder);
  await using _server = await serveSpec(spec, kept, (error) => problems.note(error));
  log(`serves ${spec.disks.map(({ socketPath }) => socketPath).join(', ')} as process ${process.pid}`);
  let isTold = false;
  while (!signal.aborted && (await isThere(specPath))) {
    if (!isTold && kept !== undefined && isSegmentFolderOff(kept)) {
      log(`keeps no segments on this host any more: ${kept.folder} cannot be written, or its disk is nearly full`);
      isTold = true;
    }
    await sleep(LOOK_EVERY_MS, undefined, { signal }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }
  log('ends');
}

/** Where segments are kept that come from another machine. */
async function segmentFolderOf(
  { repository, diskCacheBytes = 0 }: GatewaySpec,
  folder: string,
): Promise<KeptSegments | undefined> {
  if (repository.location.kind !== 's3' || diskCacheBytes === 0) return undefined;
  return await openSegmentFolder(join(folder, SEGMENT_FOLDER), { maxBytes: diskCacheBytes });
}

/** Opens repository and files and serves the disks, in this process. */
async function serveSpec(
  spec: GatewaySpec,
  kept: KeptSegments | undefined,
  onProblem: (error: Error) => void,
): Promise<AsyncDisposable> {
  const { repository, owner, cacheBytes } = spec;
  const store = openBlobStore(repository.location);
  const { id } = await openRepository(store); // whoever owns it by now: this only reads
  if (id !== repository.id) {
    throw new RepositoryError('foreign', REPOSITORY_FILE, `is of repository ${id}, not of ${repository.id}`);
  }
  const keys = await keysFor(store, repository);
  const disks = await Promise.all(
    spec.disks.map(async ({ target, socketPath, virtualSizeBytes, files }) => ({
      exportName: target,
      socketPath,
      virtualSizeBytes,
      chain: await openChainFiles(store, keys, files),
    })),
  );
  return await serveDisks(disks, { cacheBytes, kept, owner: owner ?? undefined, onProblem });
}

async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    (error: unknown) => {
      if (isNotFound(error)) return false;
      throw error;
    },
  );
}
