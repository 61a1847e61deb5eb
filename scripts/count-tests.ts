/**
 * Adds up vitest's JSON reports and prints `N passed, N failed, N skipped`: `node scripts/count-tests.ts FILE…`.
 * A report that is not there (vitest ended early) and a file that failed before its first test count as one failure
 * each, so that the line never looks better than the run. A test file that is in several reports was run again: its last
 * run counts. Ends with 1 when anything failed. With `--failed` it prints the names of the failed files instead.
 */
import { existsSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { z } from 'zod';

const report = z.object({
  numPassedTests: z.int(),
  numFailedTests: z.int(),
  numPendingTests: z.int(),
  numTodoTests: z.int(),
  testResults: z.array(
    z.object({
      name: z.string().optional(),
      status: z.string(),
      assertionResults: z.array(z.object({ status: z.string() })),
    }),
  ),
});

const [first = '', ...others] = process.argv.slice(2);
if (first === '--failed') printFailedFiles(others);
else count([first, ...others]);

function count(files: string[]): void {
  let passed = 0;
  let failed = 0;
  let skipped = 0;
  const reports = files.map((file) => (existsSync(file) ? read(file) : file));
  for (const [index, found] of reports.entries()) {
    if (typeof found === 'string') {
      console.error(`no result of ${basename(found, '.json')}: vitest ended before it could write one`);
      failed += 1;
      continue;
    }
    const later = new Set(
      reports
        .slice(index + 1)
        .flatMap((one) => (typeof one === 'string' ? [] : one.testResults.map(({ name }) => name))),
    );
    passed += found.numPassedTests;
    failed += found.numFailedTests;
    skipped += found.numPendingTests + found.numTodoTests;
    for (const { name, status, assertionResults } of found.testResults) {
      const having = (wanted: string): number => assertionResults.filter((test) => test.status === wanted).length;
      if (name !== undefined && later.has(name)) {
        passed -= having('passed');
        failed -= having('failed');
        skipped -= assertionResults.length - having('passed') - having('failed');
      } else if (status === 'failed' && having('failed') === 0) {
        failed += 1; // it broke before its first test
      }
    }
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  process.exitCode = failed === 0 ? 0 : 1;
}

function printFailedFiles(files: string[]): void {
  for (const file of files.filter((one) => existsSync(one))) {
    for (const { name, status } of read(file).testResults) if (status === 'failed') console.log(name);
  }
}

function read(file: string): z.infer<typeof report> {
  return report.parse(JSON.parse(readFileSync(file, 'utf8')));
}
