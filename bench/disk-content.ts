import { randomBytes } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Domain, Libvirt } from '../libvirt/libvirt.ts';
import { run } from '../test/support/run.ts';

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** What QEMU calls a cluster and a dirty bitmap counts in. */
const CLUSTER_BYTES = 64 * KIB;

const BLOCK_BYTES = 64 * MIB;

/** Files that disks are filled from. */
export interface Patterns {
  random: string;
  /** Lines of a web server's log. */
  text: string;
  /** 4 KiB of log lines, then 60 KiB of zeroes. */
  sparse: string;
}

export function makePatterns(folder: string): Patterns {
  return {
    random: patternFile(join(folder, 'random.bin'), BLOCK_BYTES, () => randomBytes(MIB)),
    text: patternFile(join(folder, 'text.bin'), BLOCK_BYTES, () => logLines(MIB)),
    sparse: patternFile(join(folder, 'sparse.bin'), BLOCK_BYTES, () => sparsePages(MIB)),
  };
}

/** A region of a disk with data, by which the rest of the bench knows what may be overwritten. */
interface Region {
  offsetBytes: number;
  lengthBytes: number;
}

/** Where the data of a disk of `dataBytes` lie; the disk is twice as large. Half of them are random. */
export function regionsOf(dataBytes: number): Record<'random' | 'text' | 'zeroes' | 'sparse', Region> {
  const eighth = dataBytes / 8;
  return {
    random: { offsetBytes: 0, lengthBytes: 4 * eighth },
    text: { offsetBytes: 6 * eighth, lengthBytes: 2 * eighth },
    zeroes: { offsetBytes: 10 * eighth, lengthBytes: eighth },
    sparse: { offsetBytes: 14 * eighth, lengthBytes: eighth },
  };
}

/** Fills an image with 2 : 1 : 1/2 : 1/2 parts of random bytes, log text, written zeroes and sparse pages. */
export async function fillImage(path: string, dataBytes: number, patterns: Patterns): Promise<void> {
  const { random, text, zeroes, sparse } = regionsOf(dataBytes);
  const fill = (what: string, { offsetBytes, lengthBytes }: Region): string[] => {
    const commands: string[] = [];
    for (let done = 0; done < lengthBytes; done += BLOCK_BYTES) {
      const partBytes = Math.min(BLOCK_BYTES, lengthBytes - done);
      commands.push('-c', `write -q ${what} ${offsetBytes + done} ${partBytes}`);
    }
    return commands;
  };
  await run('qemu-io', [
    ...['-f', 'qcow2'],
    ...fill(`-s ${patterns.random}`, random),
    ...fill(`-s ${patterns.text}`, text),
    ...fill('-P 0', zeroes),
    ...fill(`-s ${patterns.sparse}`, sparse),
    path,
  ]);
}

/** One change of a disk: what was written where, and how many clusters that makes dirty. */
export interface Change {
  writes: Region[];
  dirtyBytes: number;
}

/** 850 random writes, 400 MiB in all on a disk of 4 GiB of data: 50 of 4 MiB and 800 of 256 KiB, wherever data lie. */
export function planChange(dataBytes: number): Change {
  const regions = Object.values(regionsOf(dataBytes));
  const share = Math.min(1, dataBytes / (4 * GIB));
  const writes: Region[] = [];
  for (const [count, lengthBytes] of [
    [50, 4 * MIB],
    [800, 256 * KIB],
  ] as const) {
    const units = regions.flatMap((region) =>
      Array.from({ length: region.lengthBytes / lengthBytes }, (_, n) => region.offsetBytes + n * lengthBytes),
    );
    for (let n = 0; n < Math.max(1, Math.round(count * share)); n += 1) {
      writes.push({ offsetBytes: units[Math.floor(Math.random() * units.length)]!, lengthBytes });
    }
  }
  const clusters = new Set<number>();
  for (const { offsetBytes, lengthBytes } of writes) {
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; at += CLUSTER_BYTES) clusters.add(at / CLUSTER_BYTES);
  }
  return { writes, dirtyBytes: clusters.size * CLUSTER_BYTES };
}

/** Makes the change in a running VM through QEMU, which notes it in the dirty bitmaps as it does the guest's writes. */
export async function applyChange(
  { libvirt, dom }: { libvirt: Libvirt; dom: Domain },
  { writes }: Change,
  patternPath: string,
): Promise<void> {
  const backend = '/machine/peripheral/virtio-disk0/virtio-backend';
  for (const { offsetBytes, lengthBytes } of writes) {
    const command = `qemu-io -d ${backend} "write -q -s ${patternPath} ${offsetBytes} ${lengthBytes}"`;
    const answer = await libvirt.monitorCommandHmp(dom, command);
    if (/failed|error/i.test(answer)) throw new Error(`${command}: ${answer.trim()}`);
  }
}

/** A file of random bytes for one change. */
export const changePattern = (path: string): string => patternFile(path, 4 * MIB, () => randomBytes(MIB));

/** Fills a file with blocks. Gives its path. */
export function patternFile(path: string, lengthBytes: number, block: () => Uint8Array): string {
  const file = openSync(path, 'w');
  for (let done = 0; done < lengthBytes;) done += writeSync(file, block());
  closeSync(file);
  return path;
}

let lineNumber = 0;
/** A web server's log: it compresses, and no two blocks of it are the same. */
export function logLines(lengthBytes: number): Buffer {
  const block = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes;) {
    const id = Math.random().toString(16).slice(2);
    const line = `2026-11-21T${10 + (lineNumber % 13)}:${lineNumber % 60}:${(lineNumber * 7) % 60}Z web-${lineNumber % 9} app[${lineNumber++}]: GET /orders/${id} 200 ${(lineNumber * 37) % 900} ms\n`;
    at += block.write(line, at);
  }
  return block;
}

function sparsePages(lengthBytes: number): Buffer {
  const block = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes; at += CLUSTER_BYTES) logLines(4 * KIB).copy(block, at);
  return block;
}
