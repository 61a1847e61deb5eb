import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { tableRows } from './table-rows.ts';

const names = z.record(z.string(), z.string()).transform((versions) => Object.keys(versions).toSorted());
const packageJson = z.object({ dependencies: names, devDependencies: names });
const read = async (path: string): Promise<string> => await readFile(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('docs/dependencies.md', async () => {
  const { dependencies, devDependencies } = packageJson.parse(JSON.parse(await read('package.json')));
  const [runs = '', develops = ''] = (await read('docs/dependencies.md')).split('\n## What development needs');
  const namesIn = (part: string): string[] => tableRows(part).map(([name = '']) => name.replaceAll('`', ''));

  it('names exactly the dependencies, each once', () => {
    expect(namesIn(runs).toSorted()).toEqual(dependencies);
  });

  it('names exactly the development dependencies, each once', () => {
    expect(namesIn(develops).toSorted()).toEqual(devDependencies);
  });

  it('gives a reason for each', () => {
    for (const [name, reason] of [...tableRows(runs), ...tableRows(develops)]) expect(reason, name).toMatch(/\w/);
  });
});
