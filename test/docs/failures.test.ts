import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { FAILURES } from '../../schemas/failures.ts';
import { tableRows } from './table-rows.ts';

describe('docs/failures.md', async () => {
  const rows = tableRows(await readFile(new URL('../../docs/failures.md', import.meta.url), 'utf8'));
  const documented = new Map(rows.map(([type = '', retried]) => [type.replaceAll('`', ''), retried]));

  it('has every failure of the code, and no other', () => {
    expect([...documented.keys()].toSorted()).toEqual(Object.keys(FAILURES).toSorted());
  });

  it('says of each whether it is retried', () => {
    const retried = Object.entries(FAILURES).map(([type, { retryable }]) => [type, retryable ? 'yes' : 'no']);
    expect(Object.fromEntries(documented)).toEqual(Object.fromEntries(retried));
  });

  it('names each once, with a meaning, what follows for the VM and what to do', () => {
    expect(rows).toHaveLength(documented.size);
    for (const row of rows) {
      expect(row, row[0]).toHaveLength(5);
      expect(
        row.every((cell) => cell !== ''),
        row[0],
      ).toBe(true);
    }
  });
});
