import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { DomainDisk } from '../../libvirt/domain-xml.ts';
import type { SourceMark } from '../../schemas/source-mark.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { storedChain } from './image-chain.ts';
import { isNotFound } from './json-notes.ts';

/**
 * What tells an image from another that took its place with a bitmap of the same name in it, and whether what it is layered
 * on is as it was: neither is noted by a bitmap.
 */
export async function imageMark(
  disk: Pick<DomainDisk, 'sourcePath' | 'format' | 'backingChain'>,
  { running, signal }: { running: boolean; signal: AbortSignal },
): Promise<SourceMark> {
  const { sourcePath: path, format } = disk;
  if (path === null) return { born: null, below: null };
  const below = running ? disk.backingChain.map((layer) => layer.path) : await storedBelow(path, format, signal);
  return {
    born: await bornOf(path),
    below: below === null ? null : (await Promise.all(below.map(stateOf))).join('|'),
  };
}

/** null where the headers do not tell. */
async function storedBelow(path: string, format: string, signal: AbortSignal): Promise<string[] | null> {
  try {
    return (await storedChain({ path, format }, { signal })).slice(1).map((layer) => layer.path);
  } catch (error) {
    if (error instanceof HoldfastError && error.type === 'DeltaAnomaly') return null;
    throw error;
  }
}

/** Birth time of a file in ns; null where the file system does not keep it, and for devices. */
async function bornOf(path: string): Promise<string | null> {
  const info = await lookAt(path);
  if (info?.isFile() !== true || info.birthtimeNs <= 0n) return null;
  return String(info.birthtimeNs);
}

/** An image that nothing should write to: where it lies, its length and when it was last written. */
async function stateOf(path: string | null): Promise<string> {
  if (path === null) return 'no file';
  const info = await lookAt(path);
  const state = info === undefined ? 'missing' : info.isFile() ? `${info.size}:${info.mtimeNs}` : 'no file';
  return `${resolve(path)}=${state}`;
}

const lookAt = (path: string) =>
  stat(path, { bigint: true }).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
