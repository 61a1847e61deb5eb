import { describe, expect, it } from 'vitest';
import { ByteCache } from '../../gateway/byte-cache.ts';

/** Asks for it; whether it had to be made. */
async function isMade(cache: ByteCache, key: string, bytes = new Uint8Array(10)): Promise<boolean> {
  let made = false;
  await cache.get(key, () => {
    made = true;
    return Promise.resolve(bytes);
  });
  return made;
}

describe('ByteCache', () => {
  it('keeps what was asked for last, up to its bound', async () => {
    const cache = new ByteCache(20);
    for (const key of ['a', 'b', 'a', 'c']) await isMade(cache, key);
    expect(cache.keptBytes).toBe(20);
    expect(await isMade(cache, 'a')).toBe(false);
    expect(await isMade(cache, 'b')).toBe(true);
  });

  it('counts a memory whole for as long as a part of it is kept, and once', async () => {
    const cache = new ByteCache(25);
    const memory = new Uint8Array(20);
    await isMade(cache, 'first half', memory.subarray(0, 10));
    await isMade(cache, 'second half', memory.subarray(10));
    expect(cache.keptBytes).toBe(20);
    await isMade(cache, 'first half');
    await isMade(cache, 'other');
    expect(cache.keptBytes).toBe(10);
    expect(await isMade(cache, 'other')).toBe(false);
    expect(await isMade(cache, 'first half')).toBe(true);
  });

  it('makes once what several ask for, and again what failed', async () => {
    const cache = new ByteCache(20);
    const failing = () => Promise.reject(new Error('away'));
    const both = [cache.get('a', failing), cache.get('a', () => Promise.resolve(new Uint8Array(1)))];
    for (const waiting of both) await expect(waiting).rejects.toThrow('away');
    expect(await isMade(cache, 'a')).toBe(true);
  });
});
