import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import type { S3Place } from '../../schemas/repository.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import { findGuest, guestSha256, guestShell, startSha256, waitForAgent, type Guest } from '../support/guest.ts';
import { isRunning, until } from '../support/processes.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import { MiB, PatternedDisk, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';

const SYSTEM_BYTES = 16 * MiB;
/** More than a gateway reads ahead, so that a guest that reads it all asks the bucket again and again. */
const DATA_BYTES = 96 * MiB;
/** Longer than a gateway holds a read back, and than a guest's drivers may wait. */
const AWAY_MS = 22_000;
/** What waits for many steps of several processes has much time: the machine may be busy. */
const PATIENT = { timeoutMs: 150_000, everyMs: 200 };

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'a VM from a bucket', { timeout: 300_000 }, () => {
  let server: S3Server;
  let proxy: FaultProxy;
  let bed: TestBed;
  let guest: Guest;
  let sealed: Backup;
  let plain: Backup;
  /** What no process, no definition and no note of a gateway may show. */
  const secrets: string[] = [];
  const vda = new PatternedDisk(0, SYSTEM_BYTES);
  const vdb = new PatternedDisk(1, DATA_BYTES);

  beforeAll(async () => {
    server = await startS3Server('versitygw');
    proxy = await startFaultProxy(server);
    bed = await startTestBed('kvm-bucket');
    const { identity, recipient } = await newKeyPair();
    const identityFile = join(bed.dir, 'operator.key');
    await writeFile(identityFile, `${identity}\n`, { mode: 0o600 });
    const vault = await addBucket('vault', ['--encrypt', '--recipient', recipient, '--identity-file', identityFile]);
    await addBucket('open', [], server.endpoint);
    const repositoryKey = execFileSync('age', ['-d', '-i', identityFile, inBucket(vault, 'keys/identity.age')]);
    secrets.push(server.keys.secretAccessKey, identity, repositoryKey.toString().trim());

    guest = await bed.guest({
      name: 'far',
      disks: [
        { target: 'vda', sizeBytes: SYSTEM_BYTES, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: DATA_BYTES, format: 'qcow2', fs: 'none' },
      ],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 2 * MiB, 0x11);
    await vdb.write(guest, 0, 80 * MiB, 0x12);
    await bed.take('far', { repository: 'vault', compression: 'none' });
    await vda.write(guest, MiB, MiB, 0x13);
    await vdb.write(guest, 70 * MiB, 20 * MiB, 0x14);
    sealed = await bed.take('far', { repository: 'vault', compression: 'none' });
    expect(sealed.type).toBe('incremental');
    plain = await bed.take('far', { repository: 'open' });
    await bed.host.libvirt.destroy(guest.dom);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  async function addBucket(name: string, flags: string[], endpoint = proxy.endpoint): Promise<S3Place> {
    const { bucket, prefix } = await server.newPlace();
    const { location } = await bed.holdfast.json<{ location: S3Place }>(
      ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', name, '--path-style', '--endpoint', endpoint],
      ...['--credentials-file', server.credentialsFile, ...flags],
    );
    return location;
  }
  /** versitygw keeps each object as a file. */
  const inBucket = ({ bucket, prefix }: S3Place, key: string): string => join(server.dataDir, bucket, prefix, key);
  const gatewaysFolder = (): string => join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'gateways');

  it.each([
    ['an encrypted', () => sealed],
    ['a plain', () => plain],
  ])('boots in a validation of %s backup', async (_, backup) => {
    const { validation, validationResult } = await bed.holdfast.json<Backup & { validationResult: ValidationResult }>(
      ...['backup', 'validate', backup().id, '--steps', 'hash,boot'],
    );
    expect(validationResult.steps).toMatchObject([
      { step: 'hash', result: 'passed' },
      { step: 'boot', result: 'passed' },
    ]);
    expect(validation).toBe('Valid');
    expect(await readdir(gatewaysFolder())).toEqual([]);
  });

  it('runs on an encrypted backup at once, across a killed worker and a bucket that is away, until it needs it no more', async () => {
    const { consolidation } = await bed.restore(sealed.id, { as: 'near', quick: true, rateMBps: 1 });
    const copy = await findGuest(bed.host, 'near');
    await waitForAgent(copy);
    expect(await guestSha256(copy, '/dev/vda')).toBe(vda.sha256);
    await until('vdb is being pulled', () => isPulled(copy, 'vdb'), PATIENT);
    const gateway = await gatewayPid();
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
    expect(await gatewayPid()).toBe(gateway);
    const mine = vdb.as(1);
    await mine.write(copy, 40 * MiB, MiB, 0x21);

    await bed.holdfast.json('consolidation', 'rate', 'near', '0');
    const done = await resultOf<ConsolidatedVm>((await bed.holdfast.client()).workflow.getHandle(consolidation ?? ''));
    expect(done.disks.map(({ verified }) => verified)).toEqual([true, true]);
    await until('the gateway has ended', () => !isRunning(gateway));
    expect(await readdir(gatewaysFolder())).toEqual([]);
    await expectIndependent(copy, done, { vda: vda.sha256, vdb: mine.sha256 });
  });

  it('goes on with a plain backup when its gateway is killed and its server stops, looked after by a job or not', async () => {
    const { consolidation = '' } = await bed.restore(plain.id, { as: 'alone', quick: true, rateMBps: 1 });
    const copy = await findGuest(bed.host, 'alone');
    await waitForAgent(copy);
    await bed.holdfast.json('job', 'cancel', consolidation);
    const stored = `${vdb.sha256}  /dev/vdb\n`;
    const unread = await startWithServerAway(copy, 'vdb');
    expect(await unread()).toBe(stored);
    const again = await startSha256(copy, '/dev/vdb');
    process.kill(await gatewayPid(), 'SIGKILL');
    expect(await again()).toBe(stored);
    const mine = vdb.as(1);
    await mine.write(copy, 40 * MiB, MiB, 0x21);

    const { jobId } = await bed.holdfast.json<{ jobId: string }>(
      ...['consolidation', 'resume', 'alone', '--rate', '1', '--no-wait'],
    );
    await until('vdb is being pulled again', () => isPulled(copy, 'vdb'), PATIENT);
    const first = await gatewayPid();
    process.kill(first, 'SIGKILL');
    await until('another gateway serves', async () => ![first, 0].includes(await gatewayPid()), PATIENT);
    await until('the pull has gone on', () => isPulled(copy, 'vdb'), PATIENT);
    const whilePulled = await startWithServerAway(copy, 'vdb');
    await bed.holdfast.json('consolidation', 'rate', 'alone', '0');
    expect(await whilePulled()).toBe(`${mine.sha256}  /dev/vdb\n`);
    const done = await resultOf<ConsolidatedVm>((await bed.holdfast.client()).workflow.getHandle(jobId));
    await expectIndependent(copy, done, { vda: vda.sha256, vdb: mine.sha256 });
  });

  /** Begins to read a disk in the guest while the server is away for longer than anything waits for it. */
  async function startWithServerAway(copy: Guest, target: string): Promise<() => Promise<string>> {
    await server.kill();
    const reading = await startSha256(copy, `/dev/${target}`);
    await delay(AWAY_MS);
    await until(
      'the guest stands still',
      async () => (await bed.host.libvirt.state(copy.dom)).state === 'paused',
      PATIENT,
    );
    await server.restart();
    return reading;
  }

  const isPulled = async ({ dom }: Guest, target: string): Promise<boolean> => {
    const job = await bed.host.libvirt.blockJobInfo(dom, target);
    return job?.type === 'pull' && job.currentBytes > 0;
  };

  /** What the only gateway there is keeps of the bucket on the host's disk. */
  async function keptSegments(): Promise<Buffer[]> {
    const [id = ''] = await readdir(gatewaysFolder());
    const folder = join(gatewaysFolder(), id, 'segments');
    return await Promise.all((await readdir(folder)).map((name) => readFile(join(folder, name))));
  }

  /** Process of the only gateway there is. */
  async function gatewayPid(): Promise<number> {
    const [id = ''] = await readdir(gatewaysFolder());
    const holder = await readFile(join(gatewaysFolder(), id, 'process'), 'utf8');
    return Number(holder.split(' ')[0]);
  }

  /** Neither in what libvirt knows of the VM, nor in the arguments of any process, nor in what a gateway was told and says. */
  async function expectNoSecrets({ dom }: Guest, gateway: number): Promise<void> {
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
    const folder = join(gatewaysFolder(), (await readdir(gatewaysFolder()))[0] ?? '');
    for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
      if (entry.isFile()) shown.set(entry.name, await readFile(join(entry.parentPath, entry.name), 'utf8'));
    }
    expect([...shown.keys()]).toContain('spec.json');
    expect(shown.get(`arguments of ${gateway}`)).toContain('spec.json');
    expect([...shown.values()].some((text) => text.includes('qemu-system') && text.includes('guest=near'))).toBe(true);
    const showing = [...shown].filter(([, text]) => secrets.some((secret) => text.includes(secret)));
    expect(showing.map(([where]) => where)).toEqual([]);
  }

  /** The VM runs on disks of its own: sound, right to the last byte, and nothing is left of the restore. */
  async function expectIndependent(copy: Guest, { disks }: Pick<RestoredVm, 'disks'>, sums: Record<string, string>) {
    const paths = Object.fromEntries(disks.map(({ target, path }) => [target, path]));
    const all = [...guest.disks.map(({ path }) => path), ...Object.values(paths)].map((path) => basename(path));
    await expectVmClean(copy, copy.name, { activeImages: paths, otherFiles: all });
    const xml = await bed.host.libvirt.domainXml(copy.dom, { inactive: true });
    expect(parseDomainXml(xml).disks.flatMap(({ backingChain }) => backingChain)).toEqual([]);
    await bed.host.libvirt.destroy(copy.dom);
    for (const [target, path] of Object.entries(paths)) {
      await qemuImgCheck(path);
      expect((await qemuImgInfo(path)).backingFile).toBeNull();
      expect(await sha256OfImage(path, 'qcow2')).toBe(sums[target]);
    }
    await bed.host.libvirt.undefine(copy.dom);
    for (const path of Object.values(paths)) await rm(path);
  }
});
