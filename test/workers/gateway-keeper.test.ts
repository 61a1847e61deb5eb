import { describe, expect, it } from 'vitest';
import { keepGateways } from '../../workers/gateway-keeper.ts';
import { until } from '../support/processes.ts';

const A = '0b9f2f0e-8f5c-4a43-9a55-0f6f3cf1f001';
const B = '0b9f2f0e-8f5c-4a43-9a55-0f6f3cf1f002';

describe('the keeper of gateways', () => {
  const list = () => Promise.resolve([A, B].map((id) => ({ id, touchedMs: 0 })));

  it('looks at all at once: one that cannot serve keeps no other waiting, nor its guest', async () => {
    const done: string[] = [];
    const ensure = async (id: string, { signal }: { signal: AbortSignal }) => {
      if (id === A) await new Promise((ended) => signal.addEventListener('abort', ended));
      done.push(`${id} serves`);
    };
    const look = (id: string) => {
      done.push(`${id} is looked at`);
      return Promise.resolve('web-1');
    };
    const said: string[] = [];
    const keeper = keepGateways({ list, ensure }, { look }, (line) => said.push(line));
    await until('the guest goes on', () => said.length > 0);
    expect(done).toEqual([`${B} serves`, `${B} is looked at`]);
    expect(said).toEqual(['VM web-1 stood still because a read or write failed, and goes on']);
    await keeper[Symbol.asyncDispose]();
  });

  it('says why one does not serve, and lets no guest of it go on', async () => {
    const said: string[] = [];
    const looked: string[] = [];
    const look = (id: string) => {
      looked.push(id);
      return Promise.resolve(undefined);
    };
    const ensure = (id: string) => (id === A ? Promise.reject(new Error('no repository')) : Promise.resolve());
    const keeper = keepGateways({ list, ensure }, { look }, (line) => said.push(line));
    await until('both were looked at', () => said.length > 0 && looked.length > 0);
    await keeper[Symbol.asyncDispose]();
    expect(said).toEqual(['no repository']);
    expect(looked).toEqual([B]);
  });
});
