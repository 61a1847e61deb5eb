import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BackupEvidence } from '../../operations/evidence.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { S3Place } from '../../schemas/repository.ts';
import { runCli } from '../cli/run-cli.ts';
import { runByHand } from '../support/by-hand.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { createGuest, startGuest, type Guest } from '../support/guest.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { stateOfFolder } from '../support/sample-repository.ts';
import { startS3Server, type S3Server } from '../support/s3-server.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import { manifestOf, MiB, PatternedDisk } from '../support/test-bed.ts';

type Shown = Backup & { evidence: BackupEvidence };

/** Takes two backups of a VM, then loses everything but the repository. */
describe('a repository that is all there is left', () => {
  let dir: TempDir;
  let host: KvmHost;
  let holdfast: TestInstallation;
  let guest: Guest;
  let full: Backup;
  let incremental: Backup;
  let s3: S3Server;
  const vda = new PatternedDisk(0, 24 * MiB);
  const vdb = new PatternedDisk(1, 16 * MiB);
  let repository: string;

  beforeAll(async () => {
    dir = await tempDir();
    host = await startKvmHost({ name: 'kvm-alone', dir: join(dir.path, 'h') });
    holdfast = await startInstallation({ host, dir: join(dir.path, 'i') });
    repository = holdfast.repositoryDir;
    guest = await createGuest(host, {
      name: 'web-1',
      dir: join(dir.path, 'vm'),
      disks: [
        { target: 'vda', sizeBytes: 24 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', fs: 'none' },
      ],
    });
    await startGuest(guest);
    await holdfast.json('offering', 'create', 'gold', '--tenant', 'acme');
    await holdfast.json('offering', 'assign', 'gold', 'web-1');
    await vda.write(guest, 0, 12 * MiB, 0x21);
    await vdb.write(guest, MiB, 3 * MiB, 0x22);
    full = await holdfast.take('web-1', '--quiesce', 'require');
    await vda.write(guest, 5 * MiB, MiB, 0x23);
    await vdb.write(guest, 9 * MiB, MiB, 0x24);
    incremental = await holdfast.take('web-1', '--quiesce', 'none');
  });
  afterAll(async () => {
    await s3[Symbol.asyncDispose]();
    await holdfast[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  const hashes = () => ({ vda: vda.sha256, vdb: vdb.sha256 });
  const expectContent = async (paths: { vda: string; vdb: string }): Promise<void> => {
    await qemuImgCheck(paths.vda);
    expect({ vda: await sha256OfImage(paths.vda, 'qcow2'), vdb: await sha256OfImage(paths.vdb, 'raw') }).toEqual(
      hashes(),
    );
  };

  it('was written with evidence of how each backup came about, which backup show tells', async () => {
    const shown = await holdfast.json<Shown>('backup', 'show', full.id);
    const manifest = await manifestOf(holdfast, full);
    expect(shown.disks.map(({ target, fullReason }) => [target, fullReason])).toEqual([
      ['vda', 'first-backup'],
      ['vdb', 'format-without-bitmaps'],
    ]);
    expect(shown.evidence).toMatchObject({
      requestedBy: `cli:${userInfo().username}@${hostname()}`,
      strategy: 'checkpoint',
      run: { offering: 'gold', tenant: 'acme', quiesce: 'require' },
      notFrozen: null,
      attempts: { vda: 1, vdb: 1 },
      resumedSegments: { vda: 0, vdb: 0 },
      skippedDisks: [],
      passedOver: [],
    });
    expect(shown.evidence.freezeMs).toBeGreaterThan(0);
    expect(Object.keys(shown.evidence.versions).toSorted()).toEqual(['holdfast', 'libvirt', 'node', 'qemu']);
    expect(manifest.run).toEqual(shown.evidence.run);
    const { workflowId = '', runId = '', beganAt = '', endedAt = '' } = manifest.run ?? {};
    const run = (await holdfast.client()).workflow.getHandle(workflowId, runId);
    expect((await run.describe()).type).toBe('takeBackup');
    expect([beganAt, manifest.instant, endedAt].toSorted()).toEqual([beganAt, manifest.instant, endedAt]);

    const { stdout } = await holdfast.cli('backup', 'show', incremental.id);
    expect(stdout).toContain(`asked by: cli:${userInfo().username}@${hostname()}`);
    expect(stdout).toContain('offering gold, tenant acme, strategy checkpoint, quiesce none');
    expect(stdout).toContain('guest: not frozen');
    expect(stdout).toMatch(/vdb +full +format-without-bitmaps/);
  });

  it('has manifests that fit the published schema', async () => {
    const ajv = new Ajv2020({ strict: true });
    addFormats.default(ajv);
    const schema = await readFile(new URL('../../docs/schemas/manifest-1.json', import.meta.url), 'utf8');
    const fits = ajv.compile(JSON.parse(schema) as object);
    for (const { vm, id } of [full, incremental]) {
      const stored: unknown = JSON.parse(await readFile(holdfast.blob(`${vm.uuid}/backups/${id}.json`), 'utf8'));
      expect(fits(stored), JSON.stringify(fits.errors)).toBe(true);
    }
  });

  it('brings the VM back when catalog, Temporal, the workers and the VM itself are lost', async () => {
    await host.libvirt.destroy(guest.dom);
    await holdfast[Symbol.asyncDispose]();
    await rm(holdfast.dataDir, { recursive: true });
    await host.libvirt.undefine(guest.dom, { checkpointsMetadata: true });
    await rm(guest.dir, { recursive: true });
    const before = await stateOfFolder(repository);
    const cwd = join(dir.path, 'empty');
    await mkdir(cwd);
    const from = ['--from', repository, '--json'];
    const listed = runCli(['backup', 'ls', 'web-1', ...from], { cwd });
    expect((JSON.parse(listed.stdout) as Backup[]).map(({ id }) => id)).toEqual([incremental.id, full.id]);
    const restore = ['restore', 'latest', '--vm', 'web-1', ...from, '--to', guest.dir, '--define'];
    const { exitCode, stdout, stderr } = runCli([...restore, '--libvirt', host.socketPath], { cwd });
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    const restored = JSON.parse(stdout) as RestoredVm;
    expect(restored.vm).toEqual({ uuid: guest.uuid, name: 'web-1' });
    const [one, other] = restored.disks;
    await expectContent({ vda: one!.path, vdb: other!.path });
    expect(await readdir(cwd)).toEqual([]);
    expect(await stateOfFolder(repository)).toEqual(before);

    const again = runCli([...restore.slice(0, -2), join(dir.path, 'twice'), '--define', '--libvirt', host.socketPath], {
      cwd,
    });
    expect(again.stderr).toContain('VmUuidTaken');
    const dom = await host.libvirt.lookupByName('web-1');
    await host.libvirt.create(dom!);
    expect((await host.libvirt.state(dom!)).state).toBe('running');
    await host.libvirt.destroy(dom!);
    await host.libvirt.undefine(dom!, {});
  });

  it('brings the VM back by hand', async () => {
    const out = join(dir.path, 'by-hand');
    const { exitCode, stderr } = runByHand(
      [1, 4, 5, 7, 8],
      { repository, vm: 'web-1', out },
      {
        LIBVIRT_DEFAULT_URI: `qemu+unix:///system?socket=${host.socketPath}`,
      },
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    await expectContent({ vda: join(out, 'web-1-vda.qcow2'), vdb: join(out, 'web-1-vdb.raw') });
    const dom = await host.libvirt.lookupByName('web-1');
    await host.libvirt.create(dom!);
    expect((await host.libvirt.state(dom!)).state).toBe('running');
    await host.libvirt.destroy(dom!);
  });

  it('brings it back from a bucket, by the command and by hand with curl', async () => {
    s3 = await startS3Server('versitygw');
    const place = await s3.newPlace('back/ups');
    await copyTo(place, s3, repository);
    const bucket = ['--from', `s3://${place.bucket}/${place.prefix}`, '--endpoint', s3.endpoint, '--path-style'];
    const restore = [
      'restore',
      incremental.id,
      ...bucket,
      '--credentials-file',
      s3.credentialsFile,
      '--to',
      'out',
      '--json',
    ];
    const { stdout, stderr: said } = runCli(restore, { cwd: dir.path });
    expect(said).toBe('');
    const [one, other] = (JSON.parse(stdout) as RestoredVm).disks;
    await expectContent({ vda: one!.path, vdb: other!.path });

    const credentials = join(dir.path, 'credentials');
    await writeFile(credentials, `user = "${s3.keys.accessKeyId}:${s3.keys.secretAccessKey}"\n`, { mode: 0o600 });
    const out = join(dir.path, 'from-bucket');
    const { exitCode, stderr } = runByHand([1, 2, 4, 5, 7], {
      repository: join(dir.path, 'fetched'),
      vm: 'web-1',
      out,
      endpoint: s3.endpoint,
      bucket: place.bucket,
      prefix: `${place.prefix}/`,
      region: place.region,
      credentials,
    });
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    await expectContent({ vda: join(out, 'web-1-vda.qcow2'), vdb: join(out, 'web-1-vdb.raw') });
  });
});

/** As any tool that copies files to a bucket. */
async function copyTo(place: S3Place, { endpoint, keys }: S3Server, folder: string): Promise<void> {
  const client = new S3Client({ endpoint, credentials: keys, region: place.region, forcePathStyle: true });
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const Key = `${place.prefix}/${path.slice(folder.length + 1)}`;
    await client.send(new PutObjectCommand({ Bucket: place.bucket, Key, Body: await readFile(path) }));
  }
  client.destroy();
}
