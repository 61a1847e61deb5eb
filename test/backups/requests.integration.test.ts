import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import { expectOnlyCheckpointOf, MiB, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';
import { qemuImgCheck } from '../support/disk-content.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { guestShell, startGuest, waitForAgent, type Guest } from '../support/guest.ts';

describe('what a backup is asked for', () => {
  let bed: TestBed;
  let guest: Guest;
  beforeAll(async () => {
    bed = await startTestBed('kvm-asked');
    guest = await bed.guest({
      name: 'web-1',
      disks: [{ target: 'vda', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'ext4' }],
    });
    await startGuest(guest);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  it.each([
    [undefined, /^InvalidRequest: takeBackup: vm: /],
    [{}, /^InvalidRequest: takeBackup: vm: /],
    [{ vm: 7 }, /^InvalidRequest: takeBackup: vm: /],
    [{ vm: 'web-1', ful: true }, /^InvalidRequest: takeBackup: ful: /],
    [{ vm: '../x' }, /^InvalidRequest: takeBackup: vm: /],
    [{ vm: 'a\u0000b' }, /^InvalidRequest: takeBackup: vm: /],
    [{ vm: 'x'.repeat(300) }, /^InvalidRequest: takeBackup: vm: /],
    [{ vm: 'web-1', repository: '../main' }, /^InvalidRequest: takeBackup: repository: /],
    [{ vm: 'web-1', excludeDisks: ['../vda'] }, /^InvalidRequest: takeBackup: excludeDisks.0: /],
    [{ vm: 'no-such-vm' }, /^VmNotFound: VM no-such-vm is on none of the hosts/],
    [{ vm: 'web-1', repository: 'nowhere' }, /^RepositoryNotFound: /],
    [{ vm: 'web-1', offering: 'gold' }, /^OfferingNotFound: /],
    [{ vm: 'web-1', excludeDisks: ['vda'] }, /^NothingToBackUp: VM web-1 .*vda \(excluded\)/],
  ])('refuses %j', async (request, message) => {
    await expect(resultOf(await bed.start('takeBackup', request))).rejects.toThrow(message);
  });

  it.each([
    [{}, /^InvalidRequest: restoreVm: backupId: /],
    [{ backupId: '../../etc/passwd' }, /^InvalidRequest: restoreVm: backupId: /],
    [{ backupId: 'd5b1a2f0-0000-4000-8000-000000000000' }, /^BackupNotFound: /],
    [{ backupId: 'd5b1a2f0-0000-4000-8000-000000000000', as: 'a/b' }, /^InvalidRequest: restoreVm: as: /],
  ])('refuses to restore %j', async (request, message) => {
    await expect(resultOf(await bed.start('restoreVm', request))).rejects.toThrow(message);
  });

  it('leaves nothing of what it refused', async () => {
    expect(await readdir(bed.holdfast.repositoryDir)).toEqual(['repository.json']);
    await expectOnlyCheckpointOf(guest, null);
  });

  let last: Backup;
  const freezes = async (): Promise<string[]> =>
    (await guestShell(guest, 'cat /run/fsfreeze.log 2>/dev/null || true')).split('\n').filter(Boolean);

  it('takes no more than the name of a VM, and then freezes it if it can', async () => {
    last = await resultOf<Backup>(await bed.start('takeBackup', { vm: 'web-1' }));
    expect(last).toMatchObject({ state: 'BackedUp', consistency: 'application' });
    expect(await freezes()).toEqual(['freeze', 'thaw']);
  });

  it('does not freeze when told not to, and freezes when told to', async () => {
    expect(await bed.take('web-1', { quiesce: 'none' })).toMatchObject({ consistency: 'crash' });
    expect(await freezes()).toHaveLength(2);
    last = await bed.take('web-1', { quiesce: 'require' });
    expect(last).toMatchObject({ consistency: 'application', type: 'incremental' });
    expect(await freezes()).toEqual(['freeze', 'thaw', 'freeze', 'thaw']);
    await expectOnlyCheckpointOf(guest, last);
  });

  it('stores the bytes of one instant though the guest writes all the time', async () => {
    const known = await guestShell(
      guest,
      'dd if=/dev/urandom of=/data/known bs=64k count=32 2>/dev/null; sync; sha256sum /data/known | head -c 64',
    );
    await guestShell(
      guest,
      '(while [ ! -e /run/stop ]; do dd if=/dev/urandom of=/data/busy bs=64k count=48 conv=fsync; done) >/dev/null 2>&1 &',
    );
    const raw = join(bed.dir, 'instant.raw');
    for (const quiesce of ['require', 'prefer'] as const) {
      last = await bed.take('web-1', { quiesce });
      const stored = bed.holdfast.blob(last.disks[0]?.file ?? '');
      await qemuImgCheck(stored);
      await run('qemu-img', ['convert', '-O', 'raw', stored, raw]);
      await run('/sbin/e2fsck', ['-fn', raw]);
      await run('/sbin/debugfs', ['-R', `dump /known ${raw}.known`, raw]);
      const { stdout } = await run('sha256sum', [`${raw}.known`]);
      expect(stdout.toString().slice(0, 64)).toBe(known);
    }
    await guestShell(guest, 'touch /run/stop');
    await expectOnlyCheckpointOf(guest, last);
  });

  it('bounds a freeze that hangs, and thaws the guest in the end', async () => {
    await guestShell(guest, 'touch /run/hang-freeze; (sleep 40; rm /run/hang-freeze) >/dev/null 2>&1 &');
    const startedMs = Date.now();
    const taken = await bed.take('web-1', { quiesce: 'prefer' });
    expect(taken.consistency).toBe('crash');
    expect(Date.now() - startedMs).toBeLessThan(120_000);
    await waitForAgent(guest);
    await guestShell(guest, 'echo usable > /data/after && sync');
    await expectOnlyCheckpointOf(guest, taken);
    last = taken;
  });

  it('without an agent is crash-consistent if that will do, or fails and leaves nothing', async () => {
    await guestShell(guest, '(sleep 1; kill $(cat /run/qga.pid)) >/dev/null 2>&1 &');
    const gone = async (): Promise<boolean> =>
      !(await bed.host.libvirt.domainXml(guest.dom)).includes("name='org.qemu.guest_agent.0' state='connected'");
    await until('the agent is gone', gone);
    await expect(bed.take('web-1', { quiesce: 'require' })).rejects.toThrow(
      /^QuiesceFailed: VM web-1 cannot be frozen: .*nothing was copied/,
    );
    await expectOnlyCheckpointOf(guest, last);
    expect(await bed.take('web-1', { quiesce: 'prefer' })).toMatchObject({ consistency: 'crash', type: 'incremental' });
  });
});
