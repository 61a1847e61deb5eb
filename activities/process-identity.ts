import { readFile } from 'node:fs/promises';

/**
 * Process id and start time, so that a reused id is not taken for the same process; "" when there is none.
 * Source: proc(5), stat, field 22
 */
export async function identityOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z') return '';
  return stat === '' ? '' : `${pid} ${fields[19] ?? ''}`;
}
