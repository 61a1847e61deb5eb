import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createGuest, startGuest, type Guest } from '../support/guest.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { until } from '../support/processes.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

describe('the thaw guard', () => {
  let dir: TempDir;
  let host: KvmHost;
  let guest: Guest;
  beforeAll(async () => {
    dir = await tempDir();
    host = await startKvmHost({ name: 'kvm-guard', dir: join(dir.path, 'h') });
    guest = await createGuest(host, {
      name: 'frozen',
      dir: join(dir.path, 'vm'),
      disks: [{ target: 'vda', sizeBytes: 64 * 1024 * 1024, format: 'qcow2', fs: 'ext4' }],
    });
    await startGuest(guest);
  });
  afterAll(async () => {
    await host[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  const status = () => guest.libvirt.agentCommand(guest.dom, { execute: 'guest-fsfreeze-status' }, 5);

  it('thaws a guest whose worker was killed between freeze and thaw', async () => {
    const worker = spawn(process.execPath, [
      join(import.meta.dirname, 'fixtures', 'freeze-and-hang.ts'),
      host.socketPath,
      guest.uuid,
    ]);
    await once(worker.stdout, 'data');
    expect(await status()).toBe('frozen');
    worker.kill('SIGKILL');
    await until('the guest is thawed', async () => (await status()) === 'thawed', { timeoutMs: 20_000, everyMs: 200 });
  });
});
