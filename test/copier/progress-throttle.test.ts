import { describe, expect, it } from 'vitest';
import { ProgressThrottle } from '../../copier/progress-throttle.ts';

describe('ProgressThrottle', () => {
  it('reports at once, then seldom, and at the end', () => {
    let reports = 0;
    const throttle = new ProgressThrottle(() => reports++);
    for (let i = 0; i < 1000; i++) throttle.tick();
    expect(reports).toBeLessThan(5);
    const before = reports;
    throttle.end();
    expect(reports).toBe(before + 1);
  });
});
