import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import { findGuest, guestSha256, guestShell, waitForAgent, type Guest } from '../support/guest.ts';
import { isRunning, until } from '../support/processes.ts';
import { missingS3Server } from '../support/s3-server.ts';
import { MiB, resultOf } from '../support/test-bed.ts';
import { BucketScene, PATIENT } from './bucket-scene.ts';

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'a VM from a bucket', { timeout: 300_000 }, () => {
  let scene: BucketScene;
  let sealed: Backup;
  let plain: Backup;

  beforeAll(async () => {
    scene = await BucketScene.start('kvm-bucket');
    sealed = await scene.takeSealed();
    plain = await scene.takePlain();
    await scene.bed.host.libvirt.destroy(scene.guest.dom);
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  it.each([
    ['an encrypted', () => sealed],
    ['a plain', () => plain],
  ])('boots in a validation of %s backup', async (_, backup) => {
    const { validation, validationResult } = await scene.bed.holdfast.json<
      Backup & { validationResult: ValidationResult }
    >(...['backup', 'validate', backup().id, '--steps', 'hash,boot']);
    expect(validationResult.steps).toMatchObject([
      { step: 'hash', result: 'passed' },
      { step: 'boot', result: 'passed' },
    ]);
    expect(validation).toBe('Valid');
    expect(await readdir(scene.gatewaysFolder)).toEqual([]);
  });

  it('runs on an encrypted backup at once, across a killed worker and a bucket that is away, until it needs it no more', async () => {
    const { bed, proxy, vda, vdb } = scene;
    const { consolidation } = await bed.restore(sealed.id, { as: 'near', quick: true, rateMBps: 1 });
    const copy = await findGuest(bed.host, 'near');
    await waitForAgent(copy);
    expect(await guestSha256(copy, '/dev/vda')).toBe(vda.sha256);
    await until('vdb is being pulled', () => scene.isPulled(copy, 'vdb'), PATIENT);
    const gateway = await scene.gatewayPid();
    await expectNoSecrets(copy, gateway);
    const kept = await keptSegments();
    expect(kept.length).toBeGreaterThan(0);
    for (const pattern of [0x11, 0x12, 0x13, 0x14]) {
      expect(kept.some((bytes) => bytes.includes(Buffer.alloc(64, pattern)))).toBe(false);
    }

    await bed.holdfast.kill('host');
    let refused = 0;
    proxy.onRequest = ({ url }) => {
      if (/\.qcow2\.age(\?|$)/.test(url)) refused += 1;
      return { kind: 'reset' };
    };
    // The end of the disk: what the guest reads need not be pulled, and the pull must not be over yet.
    const reading = guestShell(copy, 'dd if=/dev/vdb bs=1M skip=58 count=32 2>/dev/null | sha256sum');
    await until('bytes were asked for in vain', () => refused >= 3, PATIENT);
    proxy.onRequest = () => undefined;
    const end = createHash('sha256')
      .update(Buffer.alloc(12 * MiB, 0x12))
      .update(Buffer.alloc(20 * MiB, 0x14));
    expect((await reading).slice(0, 64)).toBe(end.digest('hex'));
    await bed.holdfast.isBack('host');
    expect(await scene.gatewayPid()).toBe(gateway);
    const mine = vdb.as(1);
    await mine.write(copy, 40 * MiB, MiB, 0x21);

    await bed.holdfast.json('consolidation', 'rate', 'near', '0');
    const done = await resultOf<ConsolidatedVm>((await bed.holdfast.client()).workflow.getHandle(consolidation ?? ''));
    expect(done.disks.map(({ verified }) => verified)).toEqual([true, true]);
    await until('the gateway has ended', () => !isRunning(gateway));
    expect(await readdir(scene.gatewaysFolder)).toEqual([]);
    await scene.expectIndependent(copy, done, { vda: vda.sha256, vdb: mine.sha256 });
  });

  /** What the only gateway there is keeps of the bucket on the host's disk. */
  async function keptSegments(): Promise<Buffer[]> {
    const [id = ''] = await readdir(scene.gatewaysFolder);
    const folder = join(scene.gatewaysFolder, id, 'segments');
    return await Promise.all((await readdir(folder)).map((name) => readFile(join(folder, name))));
  }

  /** Neither in what libvirt knows of the VM, nor in the arguments of any process, nor in what a gateway was told and says. */
  async function expectNoSecrets({ dom }: Guest, gateway: number): Promise<void> {
    const { bed, secrets } = scene;
    const shown = new Map<string, string>();
    shown.set('running definition', await bed.host.libvirt.domainXml(dom));
    shown.set('kept definition', await bed.host.libvirt.domainXml(dom, { inactive: true }));
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch((error: unknown) => {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'ENOENT' || code === 'ESRCH') return ''; // it has ended
        throw error;
      });
      shown.set(`arguments of ${pid}`, command);
    }
    const folder = join(scene.gatewaysFolder, (await readdir(scene.gatewaysFolder))[0] ?? '');
    for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
      if (entry.isFile()) shown.set(entry.name, await readFile(join(entry.parentPath, entry.name), 'utf8'));
    }
    expect([...shown.keys()]).toContain('spec.json');
    expect(shown.get(`arguments of ${gateway}`)).toContain('spec.json');
    expect([...shown.values()].some((text) => text.includes('qemu-system') && text.includes('guest=near'))).toBe(true);
    const showing = [...shown].filter(([, text]) => secrets.some((secret) => text.includes(secret)));
    expect(showing.map(([where]) => where)).toEqual([]);
  }
});
