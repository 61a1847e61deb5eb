import { describe, expect, it } from 'vitest';
import { whyRetried } from '../../operations/retried-step.ts';

const lastFailure = {
  message: 's3://bucket/kvm: cannot read repository.json: ECONNREFUSED (tried 5 times)',
  applicationFailureInfo: { type: 'RepositoryUnavailable' },
};

describe('why a run does not get on', () => {
  it('is the last failure of a step that waits for its next attempt, or has just begun it', () => {
    const says = `trying again what failed: RepositoryUnavailable: ${lastFailure.message}`;
    expect(whyRetried([{ state: 2 }, { state: 1, lastFailure }])).toBe(says);
    const began = { state: 2, lastFailure, lastStartedTime: { nanos: 5 } };
    expect(whyRetried([began])).toBe(says);
    expect(whyRetried([{ state: 1, lastFailure: { message: 'activity Heartbeat timeout' } }])).toBe(
      'trying again what failed: activity Heartbeat timeout',
    );
  });

  it('is nothing where no step failed, or the one that did is at work again', () => {
    expect(whyRetried([])).toBeUndefined();
    expect(whyRetried([{ state: 1 }])).toBeUndefined();
    const atWork = { lastStartedTime: { nanos: 5 }, lastHeartbeatTime: { nanos: 6 } };
    expect(whyRetried([{ state: 2, lastFailure, ...atWork }])).toBeUndefined();
  });
});
