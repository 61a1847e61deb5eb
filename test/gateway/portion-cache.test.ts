import { describe, expect, it } from 'vitest';
import { PortionCache } from '../../gateway/portion-cache.ts';

const KIB = 1024;

/** Borrows it filled with a number, and gives it back; whether it had to be made. */
async function isMade(cache: PortionCache, key: string, filling = 1, lengthBytes = 64 * KIB): Promise<boolean> {
  let made = false;
  const lent = await cache.borrow(key, lengthBytes, async (into) => {
    made = true;
    into.fill(filling);
  });
  expect(lent.bytes.length).toBe(lengthBytes);
  expect(lent.bytes.every((byte) => byte === filling)).toBe(true);
  lent.release();
  return made;
}

describe('PortionCache', () => {
  it('keeps what was asked for last, up to its size', async () => {
    const cache = new PortionCache(128 * KIB);
    for (const [filling, key] of ['a', 'b', 'a', 'c'].entries()) {
      await isMade(cache, key, key === 'a' ? 0 : filling);
    }
    expect(await isMade(cache, 'a', 0)).toBe(false);
    expect(await isMade(cache, 'b', 9)).toBe(true);
  });

  it('gives room for something large by letting several small ones go', async () => {
    const cache = new PortionCache(256 * KIB);
    for (const key of ['a', 'b', 'c', 'd']) await isMade(cache, key);
    expect(await isMade(cache, 'large', 2, 150 * KIB)).toBe(true);
    expect(await isMade(cache, 'large', 2, 150 * KIB)).toBe(false);
    expect(await isMade(cache, 'd')).toBe(false);
  });

  it('leaves what is lent as it is, and goes beyond its size rather than make anybody wait', async () => {
    const cache = new PortionCache(64 * KIB);
    const lent = await cache.borrow('a', 64 * KIB, async (into) => void into.fill(7));
    expect(await isMade(cache, 'b', 8)).toBe(true);
    expect(lent.bytes.every((byte) => byte === 7)).toBe(true);
    expect(await isMade(cache, 'b', 8)).toBe(true); // that was not kept
    lent.release();
    lent.release();
    expect(await isMade(cache, 'b', 8)).toBe(true);
    expect(await isMade(cache, 'b', 8)).toBe(false); // in the room that came back
  });

  it('makes once what several ask for, and again what failed', async () => {
    const cache = new PortionCache(64 * KIB);
    const failing = () => Promise.reject(new Error('away'));
    const both = [cache.borrow('a', KIB, failing), cache.borrow('a', KIB, () => Promise.resolve())];
    for (const waiting of both) await expect(waiting).rejects.toThrow('away');
    expect(await isMade(cache, 'a', 1, 64 * KIB)).toBe(true); // all of the room is there
    expect(await isMade(cache, 'a', 1, 64 * KIB)).toBe(false);
  });
});
