import { describe, expect, it } from 'vitest';
import {
  decideDelta,
  GRACE_MS,
  mergeSteps,
  ownImageBelow,
  whyHeld,
  type DeltaDecision,
  type DeltaFacts,
  type Ownership,
} from '../../activities/host/merge-plan.ts';
import type { ImageLayer } from '../../schemas/delta.ts';

const layer = (path: string): ImageLayer => ({ path, format: path === 'base' ? 'raw' : 'qcow2', stamp: '1:2:3' });
/** `new old base`: the uppermost first. */
const chain = (text: string): ImageLayer[] => text.split(' ').map(layer);
const owned = (drop: string, keep = '', pinned = ''): Ownership => ({
  drop: new Set(drop.split(' ')),
  keep: new Set(keep.split(' ')),
  pinned: new Set(pinned.split(' ')),
});

describe('mergeSteps', () => {
  it.each<[string, string, Ownership, string[]]>([
    ['nothing of ours', 'user base', owned(''), []],
    ['the newest stays', 'new base', owned('', 'new'), []],
    ['the older goes into the base', 'new old base', owned('old', 'new'), ['old > base under new']],
    ['at the end all go at once', 'new old base', owned('new old'), ['new+old > base']],
    [
      'what an isolated backup put on goes into the delta',
      'isolated new base',
      owned('isolated', 'new'),
      ['isolated > new'],
    ],
    ["a user's image below takes it in", 'new old user base', owned('old', 'new'), ['old > user under new']],
    ["what a user's snapshot froze stays", 'user old base', owned('old'), []],
    ['but what lies below that goes', 'user new old base', owned('new old'), ['old > base under new']],
    [
      "our newest goes into the user's image, what that one froze stays",
      'new user old base',
      owned('new old'),
      ['new > user'],
    ],
    ['what a snapshot goes back to stays', 'new old base', owned('new old', '', 'old'), ['new > old']],
    [
      'two parts are merged one after the other',
      'c keep b base',
      owned('c b', 'keep'),
      ['b > base under keep', 'c > keep'],
    ],
    ['an overlay with nothing below is no overlay any more', 'old', owned('old'), []],
  ])('%s', (_, images, ownership, expected) => {
    const steps = mergeSteps(chain(images), ownership);
    expect(
      steps.map(
        ({ dropped, into, above }) =>
          `${dropped.join('+')} > ${into.path}${above === null ? '' : ` under ${above.path}`}`,
      ),
    ).toEqual(expected);
  });

  it('tells why an overlay is held', () => {
    expect(whyHeld(chain('user old base'), 1, owned('old'))).toMatch(/not ours/);
    expect(whyHeld(chain('new old base'), 1, owned('old', 'new', 'old'))).toMatch(/a snapshot/);
    expect(whyHeld(chain('new old base'), 1, owned('old', 'new'))).toBeUndefined();
  });
});

const DELTA = {
  backupId: '0d4e2c1b-1111-4222-8333-444455556666',
  target: 'vda',
  path: '/images/new.qcow2',
  frozenPath: '/images/base.raw',
  frozenFormat: 'raw',
  frozenStamp: '1:2:3',
};

describe('decideDelta', () => {
  const facts: DeltaFacts = {
    delta: DELTA,
    wanted: false,
    inChain: null,
    overlayExists: true,
    frozenExists: true,
    frozenInUse: false,
    pinned: false,
    wasMerged: false,
    untouchedMs: GRACE_MS,
    otherVm: null,
  };
  const inChain = { below: '/images/base.raw', held: undefined };

  it.each<[string, Partial<DeltaFacts>, DeltaDecision['act']]>([
    ['in the chain and built on', { inChain, wanted: true }, 'keep'],
    ['in the chain, held, and built on', { inChain: { ...inChain, held: 'why' }, wanted: true }, 'keep'],
    ['in the chain, and nothing builds on it', { inChain }, 'merge'],
    ['in the chain, held', { inChain: { ...inChain, held: 'why' } }, 'postpone'],
    ['the disk was flattened into it', { inChain: { ...inChain, below: null } }, 'forget'],
    [
      'the disk was flattened into it, and it was built on',
      { inChain: { ...inChain, below: null }, wanted: true },
      'forget',
    ],
    ['merged before the record was corrected', { overlayExists: false, frozenInUse: true }, 'forget'],
    ['never made', { overlayExists: false, frozenExists: false }, 'forget'],
    ['given to another VM with its disk', { otherVm: 'db-1' }, 'forget'],
    ['a snapshot goes back to it', { pinned: true, frozenInUse: true }, 'postpone'],
    ['the VM was reverted to the base', { frozenInUse: true }, 'remove'],
    ['the VM was reverted, and it was built on', { frozenInUse: true, wanted: true }, 'remove'],
    ['merged together with what it lay on', { frozenExists: false, wasMerged: true }, 'remove'],
    ['merged a moment ago', { frozenInUse: true, untouchedMs: 1000, wasMerged: true }, 'remove'],
    ['the VM was reverted a moment ago', { frozenInUse: true, untouchedMs: 1000 }, 'postpone'],
    [
      'laid beside, and never put on',
      { frozenInUse: true, untouchedMs: 1000, delta: { ...DELTA, frozenStamp: null } },
      'remove',
    ],
    ['its disk was detached', {}, 'merge-beside'],
    ['its disk was detached and the base is gone', { frozenExists: false }, 'refuse'],
  ])('%s', (_, changes, act) => {
    expect(decideDelta({ ...facts, ...changes }).act).toBe(act);
  });

  it('follows overlays of ours down to the image of the user', () => {
    const upper = { ...DELTA, path: '/images/upper.qcow2', frozenPath: DELTA.path };
    expect(ownImageBelow(upper, [DELTA, upper])).toBe(DELTA.frozenPath);
    expect(ownImageBelow(DELTA, [DELTA, upper])).toBe(DELTA.frozenPath);
    expect(ownImageBelow({ ...DELTA, frozenPath: DELTA.path }, [{ ...DELTA, frozenPath: DELTA.path }])).toBe(
      DELTA.path,
    );
  });

  it('names the anomaly', () => {
    const decision = decideDelta({ ...facts, frozenExists: false });
    expect(decision).toMatchObject({
      anomaly: expect.stringMatching(/new\.qcow2 of disk vda .*base\.raw.* is gone/) as string,
    });
  });
});
