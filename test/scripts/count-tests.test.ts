import { spawnSync } from 'node:child_process';
import { mkdtempDisposable, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

interface FileResult {
  name?: string;
  status: string;
  assertionResults: { status: string }[];
}

const report = (
  passed: number,
  failed: number,
  pending: number,
  todo: number,
  testResults: FileResult[] = [],
): string =>
  JSON.stringify({
    numPassedTests: passed,
    numFailedTests: failed,
    numPendingTests: pending,
    numTodoTests: todo,
    testResults,
  });

/** What the script prints and ends with; undefined = vitest wrote no report. */
async function count(...reports: (string | undefined)[]): Promise<{ line: string; status: number | null }> {
  await using folder = await mkdtempDisposable(join(tmpdir(), 'count-tests-'));
  const files = reports.map((_, index) => join(folder.path, `${index}.json`));
  for (const [index, file] of files.entries()) {
    const content = reports[index];
    if (content !== undefined) await writeFile(file, content);
  }
  const script = new URL('../../scripts/count-tests.ts', import.meta.url).pathname;
  const { stdout, status } = spawnSync(process.execPath, [script, ...files], { encoding: 'utf8' });
  return { line: stdout.trimEnd(), status };
}

describe('scripts/count-tests.ts', () => {
  it('adds up the reports of several projects', async () => {
    const counted = await count(report(10, 0, 1, 2), report(5, 0, 0, 0));
    expect(counted).toEqual({ line: '15 passed, 0 failed, 3 skipped', status: 0 });
  });

  it('ends with 1 when a test failed', async () => {
    const broken = [{ status: 'failed', assertionResults: [{ status: 'failed' }] }];
    expect(await count(report(10, 1, 0, 0, broken))).toEqual({ line: '10 passed, 1 failed, 0 skipped', status: 1 });
  });

  it('counts a file that broke before its first test as one failure', async () => {
    const broken = [{ status: 'failed', assertionResults: [] }];
    expect(await count(report(3, 0, 0, 0, broken))).toEqual({ line: '3 passed, 1 failed, 0 skipped', status: 1 });
  });

  it('takes the last run of a file that was run again', async () => {
    const passed = { status: 'passed' };
    const before = [{ name: 'a', status: 'failed', assertionResults: [passed, { status: 'failed' }] }];
    const again = [{ name: 'a', status: 'passed', assertionResults: [passed, passed] }];
    const counted = await count(report(10, 1, 0, 0, before), report(2, 0, 0, 0, again));
    expect(counted).toEqual({ line: '11 passed, 0 failed, 0 skipped', status: 0 });
    const still = await count(report(10, 1, 0, 0, before), report(1, 1, 0, 0, before));
    expect(still).toEqual({ line: '10 passed, 1 failed, 0 skipped', status: 1 });
  });

  it('counts a report that was never written as one failure', async () => {
    expect(await count(report(3, 0, 0, 0), undefined)).toEqual({ line: '3 passed, 1 failed, 0 skipped', status: 1 });
  });
});
