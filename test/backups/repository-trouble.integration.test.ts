import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaultPayloadConverter } from '@temporalio/common';
import type { CopyHeartbeat } from '../../schemas/plan.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

describe('a repository in trouble', () => {
  let bed: TestBed;
  let guest: Guest;
  let small: string;
  let folder: TempDir;
  const vda = new PatternedDisk(0, 64 * MiB);
  const vdb = new PatternedDisk(1, 64 * MiB);
  beforeAll(async () => {
    bed = await startTestBed('kvm-trouble');
    folder = await tempDir();
    small = join(folder.path, 'small');
    await mkdir(small);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', small]);
    await bed.holdfast.json('repo', 'add', small, '--name', 'small');
    guest = await bed.guest({
      name: 'troubled',
      disks: [
        { target: 'vda', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' },
      ],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 20 * MiB, 0x51);
    await vdb.write(guest, 0, MiB, 0x52);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await run('umount', [small]);
    await folder[Symbol.asyncDispose]();
  });

  const take = (request: Parameters<TestBed['take']>[1] = {}) =>
    bed.take('troubled', { repository: 'small', compression: 'none', ...request });
  /** Names of all files of the VM in the repository. */
  const stored = async (): Promise<string[]> => {
    const { stdout } = await run('find', [small, '-type', 'f', '-path', `*${guest.uuid}*`, '-printf', '%P\n']);
    return stdout.toString().split('\n').filter(Boolean).toSorted();
  };
  const expectStoredIn = (backup: Backup) =>
    expectStored({ ...bed.holdfast, blob: (key) => join(small, key) }, backup, { vda, vdb });

  let first: Backup;
  it('takes a backup where there is room', async () => {
    first = await take();
    await expectStoredIn(first);
  });

  it('refuses before the first byte when the change map does not fit', async () => {
    await vda.write(guest, 0, 50 * MiB, 0x53);
    await vdb.write(guest, 4 * MiB, MiB, 0x54);
    const before = await stored();
    await expect(take()).rejects.toThrow(
      /^RepositoryFull: disks? vda(, vdb of troubled together need| of troubled needs) up to \d+ bytes.*(nothing was copied|what was copied is removed)/,
    );
    expect(await stored()).toEqual(before); // of the other disk nothing either
    await expectOnlyCheckpointOf(guest, first);
  });

  it('undoes all when somebody else fills it up during the copy, and the next backup is right', async () => {
    await run('mount', ['-o', 'remount,size=100m', small]); // now the change map fits, beside 21 MiB
    const before = await stored();
    const running = await bed.start('takeBackup', {
      vm: 'troubled',
      quiesce: 'none',
      repository: 'small',
      compression: 'none',
    });
    await until('the copy has begun', async () => (await stored()).length > before.length, { everyMs: 2 });
    await run('sh', ['-c', `head -c 90m /dev/zero > ${small}/hog || true`]);
    const outcome = await resultOf<Backup>(running).catch((error: unknown) => error);
    await rm(join(small, 'hog'));
    if (outcome instanceof Error) {
      expect(outcome.message).toMatch(/^RepositoryFull: /);
      expect(await stored()).toEqual(before);
      await expectOnlyCheckpointOf(guest, first);
      first = await take();
    } else {
      first = outcome as Backup; // it was faster than the hog
    }
    expect(first.type).toBe('incremental');
    await expectStoredIn(first);
    await expectOnlyCheckpointOf(guest, first);
  });

  it('says so at once when it is read-only', async () => {
    await run('mount', ['-o', 'remount,ro', small]);
    const before = await stored();
    await expect(take()).rejects.toThrow(/^RepositoryReadOnly: /);
    await run('mount', ['-o', 'remount,rw', small]);
    expect(await stored()).toEqual(before);
    await expectOnlyCheckpointOf(guest, first);
    const next = await take();
    expect(next.type).toBe('incremental');
    await expectStoredIn(next);
  });

  it('keeps to a bandwidth limit, and follows its change in mid-copy', async () => {
    await bed.holdfast.json('repo', 'limit', 'main', '--rate', '1'); // what is in flight passes, the rest never would
    const running = await bed.start('takeBackup', { vm: 'troubled', quiesce: 'none', repository: 'main' });
    const client = await bed.holdfast.client();
    const vdaOf = async () => {
      const { raw } = await client.workflow.getHandle(running.workflowId).describe();
      return (raw.pendingActivities ?? [])
        .flatMap(({ heartbeatDetails }) => heartbeatDetails?.payloads ?? [])
        .map((payload) => defaultPayloadConverter.fromPayload<CopyHeartbeat>(payload))
        .find(({ target }) => target === 'vda');
    };
    await until('some of vda is stored', async () => ((await vdaOf())?.copiedBytes ?? 0) > 0);
    await new Promise((done) => setTimeout(done, 3000));
    const held = await vdaOf();
    expect(held!.copiedBytes).toBeLessThan(held!.totalBytes);
    await bed.holdfast.json('repo', 'limit', 'main', '--off');
    await expectStored(bed.holdfast, await resultOf<Backup>(running), { vda, vdb });
  });

  it('waits for one that is gone, and goes on when it comes back', async () => {
    const away = `${bed.holdfast.repositoryDir}.away`;
    await rename(bed.holdfast.repositoryDir, away);
    const running = await bed.start('takeBackup', { vm: 'troubled', quiesce: 'none', repository: 'main' });
    const client = await bed.holdfast.client();
    await until('an attempt has failed', async () => {
      const { raw } = await client.workflow.getHandle(running.workflowId).describe();
      return (raw.pendingActivities ?? []).some(({ lastFailure }) => lastFailure != null);
    });
    expect(await stat(bed.holdfast.repositoryDir).catch(() => undefined), 'not made anew').toBeUndefined();
    await rename(away, bed.holdfast.repositoryDir);
    const taken = await resultOf<Backup>(running);
    await expectStored(bed.holdfast, taken, { vda, vdb });
  });
});
