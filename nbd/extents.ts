import { NbdProtocolError } from './errors.ts';
import type { RawExtents } from './replies.ts';

/** A stretch of the disk whose flags are the same in every context; `flags` is in the order the contexts were asked for. */
export interface NbdExtent {
  offset: number;
  lengthBytes: number;
  flags: readonly number[];
}

/**
 * Lays the extents of several contexts over one another, from `offset` to where the shortest list ends but not past
 * `lengthBytes`: servers may tell less than was asked, or, in the last extent, more.
 */
export function overlay(offset: number, lengthBytes: number, contexts: readonly RawExtents[]): NbdExtent[] {
  const extents: NbdExtent[] = [];
  const cursors = contexts.map((raw) => ({ raw, at: 0, leftBytes: lengthAt(raw, 0) }));
  for (let done = 0; done < lengthBytes && cursors.every(({ raw, at }) => at < raw.length);) {
    const step = Math.min(lengthBytes - done, ...cursors.map(({ leftBytes }) => leftBytes));
    extents.push({ offset: offset + done, lengthBytes: step, flags: cursors.map(({ raw, at }) => raw[at + 1] ?? 0) });
    done += step;
    for (const cursor of cursors) {
      cursor.leftBytes -= step;
      if (cursor.leftBytes > 0) continue;
      cursor.at += 2;
      if (cursor.at < cursor.raw.length) cursor.leftBytes = lengthAt(cursor.raw, cursor.at);
    }
  }
  return extents;
}

function lengthAt(raw: RawExtents, at: number): number {
  const lengthBytes = raw[at];
  if (lengthBytes === undefined || lengthBytes === 0) throw new NbdProtocolError('NBD extent of length 0');
  return lengthBytes;
}

/** Joins neighbours with the same flags, so that answers cut at any place give the same extents. */
export async function* joined(extents: AsyncIterable<NbdExtent>): AsyncGenerator<NbdExtent> {
  let last: NbdExtent | undefined;
  for await (const extent of extents) {
    if (last?.flags.every((flag, i) => flag === extent.flags[i]) && last.offset + last.lengthBytes === extent.offset) {
      last = { ...last, lengthBytes: last.lengthBytes + extent.lengthBytes };
    } else {
      if (last) yield last;
      last = extent;
    }
  }
  if (last) yield last;
}
