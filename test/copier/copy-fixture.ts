import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { CopyDiskOptions, CopyResult } from '../../copier/contract.ts';
import { run } from '../support/run.ts';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

export type CopyRequest = Omit<CopyDiskOptions, 'signal'>;

/** A new qcow2 disk, filled by commands of qemu-io. */
export async function makeDisk(
  path: string,
  sizeBytes: number,
  commands: string[] = [],
  options: string[] = [],
): Promise<void> {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, path, String(sizeBytes)]);
  await change(path, commands);
}

export async function change(path: string, commands: string[]): Promise<void> {
  if (commands.length > 0)
    await run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

/** A file of bytes that do not compress, for `write -s`. */
export function noiseFile(folder: string, lengthBytes: number, seed = 1): string {
  const path = join(folder, `noise-${seed}`);
  writeFileSync(path, randomBytes(lengthBytes));
  return path;
}

/** What to copy where. The target is a new, empty file. */
export function copyOf(
  folder: string,
  socketPath: string,
  virtualSizeBytes: number,
  {
    name = 'full.qcow2',
    mapContext = 'base:allocation',
    compression = 'none',
    ...rest
  }: Partial<CopyRequest> & { name?: string; mapContext?: string } = {},
): CopyRequest & { path: string } {
  const path = join(folder, name);
  writeFileSync(path, '');
  return {
    source: { socketPath, exportName: '', mapContext, virtualSizeBytes },
    compression,
    sink: { kind: 'file', path, blobKey: `vm/${name}` },
    journalPath: join(folder, `${name}.journal`),
    path,
    ...rest,
  };
}

/**
 * The file is what the result says, segment by segment and without gap, and QEMU finds no fault in it.
 * @param image the same file as QEMU reads it, where it is stored encrypted
 */
export async function expectSound(path: string, result: CopyResult, image = path): Promise<void> {
  const bytes = readFileSync(path);
  expect(bytes.length).toBe(result.storedBytes);
  let at = 0;
  for (const { offset, lengthBytes, sha256 } of result.segments) {
    expect(offset).toBe(at);
    at += lengthBytes;
    expect(createHash('sha256').update(bytes.subarray(offset, at)).digest('hex')).toBe(sha256);
  }
  expect(at).toBe(result.storedBytes);
  await run('qemu-img', ['check', image]);
}

/** Both images, with what lies below them, read the same. */
export async function expectSameDisk(one: string, other: string): Promise<void> {
  await run('qemu-img', ['compare', one, other]);
}
