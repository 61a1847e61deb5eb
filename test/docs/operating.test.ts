import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { searchAttributes } from '../../schemas/search-attributes.ts';
import { fullReason } from '../../schemas/states.ts';
import { tableRows } from './table-rows.ts';

const operating = await readFile(new URL('../../docs/operating.md', import.meta.url), 'utf8');

it('docs/operating.md explains every reason for a full copy, and no other', () => {
  const [, part = ''] = operating.split('### Why a disk was copied in full');
  const explained = tableRows(part.slice(0, part.indexOf('\n### '))).map(([reason = '']) => reason.replaceAll('`', ''));
  expect(explained.toSorted()).toEqual(fullReason.options.toSorted());
});

it('docs/operating.md names every search attribute', () => {
  for (const { name } of Object.values(searchAttributes)) expect(operating).toContain(`\`${name}\``);
});
