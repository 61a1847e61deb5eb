import { describe, expect, it } from 'vitest';
import { whyChainEnds, whyNoChain } from '../../activities/control/plan-chain.ts';
import type { BackupRecord } from '../../catalog/contract.ts';

const at = (position: number | null): BackupRecord => ({ backup: { position } }) as unknown as BackupRecord;

describe('whyChainEnds', () => {
  it.each([
    ['nothing asked, room left', { current: at(7), chainSize: 8 }, undefined],
    ['the last of the chain was taken', { current: at(8), chainSize: 8 }, 'chain-size-reached'],
    ['the chain was made shorter since', { current: at(5), chainSize: 3 }, 'chain-size-reached'],
    ['chain size 1: every backup full', { current: at(1), chainSize: 1 }, 'chain-size-reached'],
    ['chain size 0: no limit', { current: at(4000), chainSize: 0 }, undefined],
    ['chain size below 0: no limit', { current: at(4000), chainSize: -1 }, undefined],
    ['merges made room', { current: at(11), firstPosition: 5, chainSize: 8 }, undefined],
    ['merged, and long enough again', { current: at(12), firstPosition: 5, chainSize: 8 }, 'chain-size-reached'],
    ['no chain yet', { current: undefined, chainSize: 8 }, undefined],
    ['a full was asked for', { asked: { full: true }, current: at(2), chainSize: 8 }, 'requested'],
    ['an isolated one was asked for', { isolated: true, current: at(2), chainSize: 8 }, 'requested'],
    [
      'a full was asked for, and there is none',
      { asked: { full: true }, current: undefined, chainSize: 8 },
      'requested',
    ],
  ])('%s', (_, input, reason) => {
    expect(whyChainEnds({ asked: {}, isolated: false, ...input })).toBe(reason);
  });
});

describe('whyNoChain', () => {
  it.each([
    ['there never was one', undefined, 'first-backup'],
    ['it was ended because its disks were replaced', { open: false, endedReason: 'disk-replaced' }, 'disk-replaced'],
    ['it reached its size', { open: false, endedReason: 'chain-size-reached' }, 'chain-size-reached'],
    ['a person ended it', { open: false, endedReason: 'finished' }, 'requested'],
    ['it ended for no reason noted', { open: false, endedReason: null }, 'requested'],
    ['it is open and has no backup left', { open: true, endedReason: null }, 'parent-missing'],
  ])('%s', (_, lastChain, reason) => {
    expect(whyNoChain(lastChain)).toBe(reason);
  });
});
