import { symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lstatIfThere, statIfThere } from '../../activities/host/stat-if-there.ts';
import { tempDir } from '../support/temp.ts';

it('tells what is there, and that nothing is; what cannot be looked at is an error', async () => {
  await using dir = await tempDir();
  const at = (name: string): string => join(dir.path, name);
  await writeFile(at('file'), 'four');
  await symlink('nothing', at('link'));
  expect((await statIfThere(at('file')))?.size).toBe(4);
  expect(await statIfThere(at('link'))).toBeUndefined();
  expect((await lstatIfThere(at('link')))?.isSymbolicLink()).toBe(true);
  expect(await lstatIfThere(at('nothing'))).toBeUndefined();
  await expect(statIfThere(join(at('file'), 'below'))).rejects.toThrow('ENOTDIR');
  await expect(lstatIfThere('a'.repeat(300))).rejects.toThrow('ENAMETOOLONG');
});
