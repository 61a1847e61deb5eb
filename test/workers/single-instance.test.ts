import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { holdAlone } from '../../workers/single-instance.ts';
import { tempDir } from '../support/temp.ts';

it("lets QEMU's user pass through the host's folder, to its scratch files, and read nothing there", async () => {
  await using dir = await tempDir();
  const folder = join(dir.path, 'hosts', 'kvm-1');
  await using _lock = await holdAlone(join(folder, 'worker.lock'), new AbortController().signal, () => undefined);
  expect((await stat(folder)).mode & 0o777).toBe(0o711);
  expect((await stat(join(dir.path, 'hosts'))).mode & 0o777).toBe(0o711);
  expect((await stat(join(folder, 'worker.lock'))).mode & 0o777).toBe(0o600);
});
