import { expect, it } from 'vitest';
import { SpaceClaims } from '../../activities/host/space-claims.ts';

it('adds up what the disks of a run will still write', () => {
  const claims = new SpaceClaims();
  expect(claims.claim('run', 'vda', 100)).toEqual({ disks: ['vda'], neededBytes: 100 });
  expect(claims.claim('other run', 'vda', 1000).neededBytes).toBe(1000);
  claims.stored('run', 'vda', 40);
  expect(claims.claim('run', 'vdb', 10)).toEqual({ disks: ['vda', 'vdb'], neededBytes: 70 });
  claims.stored('run', 'vda', 130); // more than was thought
  expect(claims.claim('run', 'vdb', 10).neededBytes).toBe(10);
  claims.release('run', 'vda');
  expect(claims.claim('run', 'vdb', 10).disks).toEqual(['vdb']);
});

it('forgets a run with its last disk', () => {
  const claims = new SpaceClaims();
  claims.claim('run', 'vda', 100);
  claims.release('run', 'vda');
  claims.release('run', 'vda');
  expect(claims.claim('run', 'vdb', 1)).toEqual({ disks: ['vdb'], neededBytes: 1 });
});
