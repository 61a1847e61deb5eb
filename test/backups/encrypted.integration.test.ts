import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { identityToRecipient } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nameOfKey } from '../../repository/layout.ts';
import { manifest as manifestSchema, type Manifest } from '../../schemas/manifest.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import type { Guest } from '../support/guest.ts';
import { MiB, PatternedDisk, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';

/** Found in no file of the repository: it is the VM's name and title, and fills a cluster of its disk. */
const MARKER = `secret-${randomUUID()}`;
const VM = MARKER;
/** As it is, and as base64 shows it from each of three offsets on, without the letters that its neighbours share. */
const TELLING = [
  MARKER,
  ...[0, 1, 2].map((before) =>
    Buffer.from(`${'.'.repeat(before)}${MARKER}`)
      .toString('base64')
      .slice(4, -4),
  ),
  Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), // a screenshot shows the guest
];
const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'an encrypted repository', () => {
  let bed: TestBed;
  let server: S3Server;
  let guest: Guest;
  let full: Backup;
  let incremental: Backup;
  let fullSha256: string;
  let alice: KeyPair;
  let root: string;
  let keyFile: string;
  const vda = new PatternedDisk(0, 48 * MiB);

  beforeAll(async () => {
    bed = await startTestBed('kvm-encrypted');
    alice = await newKeyPair();
    root = join(bed.dir, 'encrypted');
    keyFile = join(bed.dir, 'alice.key');
    await writeFile(keyFile, `${alice.identity}\n`, { mode: 0o600 });
    await bed.holdfast.json(
      'repo',
      'add',
      root,
      ...['--name', 'vault', '--encrypt', '--hide-names'],
      '--recipient',
      alice.recipient,
    );
    server = await startS3Server('versitygw');
    const { bucket, prefix } = await server.newPlace();
    await bed.holdfast.json(
      ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', 'bucket', '--path-style', '--endpoint', server.endpoint],
      ...['--credentials-file', server.credentialsFile, '--encrypt', '--hide-names', '--recipient', alice.recipient],
    );
    guest = await bed.guest({
      name: VM,
      machine: 'q35',
      disks: [{ target: 'vda', sizeBytes: 48 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await writeMarker();
    await giveFirmware();
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, MiB, 20 * MiB, 0x31);
    full = await take({ compression: 'none' });
    fullSha256 = vda.sha256;
    await take({ repository: 'bucket', isolated: true });
    await vda.write(guest, 4 * MiB, 2 * MiB, 0x32);
    incremental = await take({ compression: 'zstd' });
    await bed.host.libvirt.destroy(guest.dom);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  const take = (request: Parameters<TestBed['take']>[1]) => bed.take(VM, { repository: 'vault', ...request });
  const blob = (key: string) => join(root, key);
  const manifestOf = async (backup: Backup): Promise<Manifest> =>
    manifestSchema.parse(JSON.parse(await readFile(blob(`${guest.uuid}/backups/${backup.id}.json`), 'utf8')));

  /** Over and over at the start of the disk, so that a cluster that is stored plain shows it. */
  async function writeMarker(): Promise<void> {
    const content = Buffer.alloc(65_536, MARKER);
    const path = join(bed.dir, 'marker');
    await writeFile(path, content);
    const image = guest.disks[0]!.path;
    await run('qemu-io', ['-f', 'qcow2', '-c', `write -s ${path} 0 64k`, image]);
    vda.noteBytes(0, content);
  }

  /** UEFI variables with the marker in the part that the firmware leaves alone. */
  async function giveFirmware(): Promise<void> {
    const variables = await readFile('/usr/share/OVMF/OVMF_VARS_4M.fd');
    variables.write(MARKER, variables.length - 4096, 'latin1');
    const template = join(bed.dir, 'variables.fd');
    await writeFile(template, variables);
    const xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    const firmware = `<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='${template}'/>`;
    await bed.host.libvirt.define(xml.replace('<kernel>', `${firmware}<kernel>`));
  }

  const operatorsOf = async (repository: string): Promise<string[]> =>
    (await bed.holdfast.json<{ operators: string[] }>('repo', 'key', 'ls', repository)).operators;

  /** Restored under another name; what its disk reads as. */
  async function restored(backup: Backup, as: string): Promise<string> {
    await bed.restore(backup.id, { as });
    const image = join(guest.dir, `${as}-vda.qcow2`);
    await qemuImgCheck(image);
    return await sha256OfImage(image, 'qcow2');
  }

  /** Files of both repositories that show something of the guest; versitygw keeps each object as a file. */
  async function telling(): Promise<string[]> {
    const found: string[] = [];
    for (const place of [root, server.dataDir]) {
      for (const entry of await readdir(place, { recursive: true, withFileTypes: true })) {
        const path = join(entry.parentPath, entry.name);
        if (entry.name.includes(MARKER)) found.push(path);
        const content = entry.isFile() ? await readFile(path) : Buffer.alloc(0);
        if (TELLING.some((bytes) => content.includes(bytes))) found.push(path);
      }
    }
    return found;
  }
  const stored = async (place: string, ending: string): Promise<string[]> =>
    (await readdir(place, { recursive: true })).filter((path) => path.endsWith(ending));

  it('has nothing of the guest in any file, its name neither', async () => {
    expect(await telling()).toEqual([]);
    for (const place of [root, server.dataDir]) {
      expect(await stored(place, '.qcow2')).toEqual([]);
      expect((await stored(place, '.qcow2.age')).length).toBeGreaterThan(0);
    }
  });

  it('tells in its manifests no more than readers without a key need', async () => {
    const manifest = await manifestOf(incremental);
    expect(manifest).toMatchObject({ vm: { uuid: guest.uuid, name: guest.uuid }, parentId: full.id, files: [] });
    expect(manifest.disks[0]).toMatchObject({ serial: null, sourcePath: null, encryption: { format: 'age' } });
  });

  it('refuses a restore where no host has an identity, and leaves no file', async () => {
    const before = await readdir(guest.dir);
    await expect(bed.restore(full.id, { as: 'no-key' })).rejects.toThrow(/^KeyMissing: .*holdfast repo set vault/);
    expect(await readdir(guest.dir)).toEqual(before);
  });

  it('refuses a restore with the key of somebody else, and leaves no file', async () => {
    const wrong = join(bed.dir, 'wrong.key');
    await writeFile(wrong, `${(await newKeyPair()).identity}\n`, { mode: 0o600 });
    await bed.holdfast.json('repo', 'set', 'vault', '--identity-file', wrong);
    const before = await readdir(guest.dir);
    await expect(bed.restore(full.id, { as: 'wrong-key' })).rejects.toThrow(/^KeyWrong: .*wrong\.key/);
    expect(await readdir(guest.dir)).toEqual(before);
    expect((await bed.holdfast.cli('backup', 'compress', full.id)).stderr).toContain('does not open with the identity');
  });

  it('is restored with the key, a full and an increment', async () => {
    await bed.holdfast.json('repo', 'set', 'vault', '--identity-file', keyFile);
    expect(await restored(incremental, 'again-1')).toBe(vda.sha256);
    const variables = await readFile(join(bed.host.dir, 'lib', 'qemu', 'nvram', 'again-1_VARS.fd'));
    expect(variables.includes(MARKER)).toBe(true);
    await expectVmClean(guest, 'again-1', {
      state: 'shutoff',
      activeImages: { vda: join(guest.dir, 'again-1-vda.qcow2') },
      otherFiles: [/./],
    });
  });

  it('is restored by hand with age and qemu-img', async () => {
    const folder = join(bed.dir, 'by-hand');
    await mkdir(folder);
    const repositoryKey = join(folder, 'repository.key');
    await writeFile(repositoryKey, execFileSync('age', ['-d', '-i', keyFile, blob('keys/identity.age')]));
    for (const { file } of [full, incremental].flatMap(({ disks }) => disks)) {
      execFileSync('age', ['-d', '-i', repositoryKey, '-o', join(folder, nameOfKey(file)), blob(file)]);
    }
    const top = join(folder, nameOfKey(incremental.disks[0]!.file));
    await qemuImgCheck(top);
    expect(await sha256OfImage(top, 'qcow2')).toBe(vda.sha256);
  });

  it('can be opened by one more, with all that was stored before, and by nobody who was not added', async () => {
    const bob = await newKeyPair();
    const bobsFile = join(bed.dir, 'bob.key');
    await writeFile(bobsFile, `${bob.identity}\n`, { mode: 0o600 });
    const before = await readFile(blob(full.disks[0]!.file));
    await bed.holdfast.json('repo', 'key', 'add', 'vault', bob.recipient);
    expect(await bed.holdfast.json('repo', 'key', 'ls', 'vault')).toMatchObject({
      operators: [alice.recipient, bob.recipient],
    });
    expect((await readFile(blob(full.disks[0]!.file))).equals(before)).toBe(true);
    await bed.holdfast.json('repo', 'key', 'rm', 'vault', alice.recipient);
    await bed.holdfast.json('repo', 'set', 'vault', '--identity-file', bobsFile);
    expect(await restored(full, 'again-2')).toBe(fullSha256);
    expect(await restored(incremental, 'again-3')).toBe(vda.sha256);
  });

  it('is compressed after the fact, and still opens after its key was rotated', async () => {
    const { recipient } = await bed.holdfast.json<{ recipient: string }>('repo', 'key', 'rotate', 'vault');
    const repositories = await bed.holdfast.json<RepositoryRecord[]>('repo', 'ls');
    expect(repositories.find(({ name }) => name === 'vault')?.settings?.encryption?.recipient).toBe(recipient);
    const compressed = await bed.holdfast.json<Backup>('backup', 'compress', full.id);
    expect(compressed.storedBytes).toBeLessThan(full.storedBytes);
    expect(await restored(incremental, 'again-4')).toBe(vda.sha256);
  });

  it('takes changes of its keys that are made at once, and loses none', async () => {
    for (const repository of ['vault', 'bucket']) {
      const opened = repository === 'vault' ? [] : ['--identity-file', keyFile];
      const before = await operatorsOf(repository);
      const others = await Promise.all(Array.from({ length: 2 }, newKeyPair));
      const adding = others.map(({ recipient }) =>
        bed.holdfast.json('repo', 'key', 'add', repository, recipient, ...opened),
      );
      await Promise.all([bed.holdfast.json('repo', 'key', 'rotate', repository, ...opened), ...adding]);
      const expected = [...before, ...others.map(({ recipient }) => recipient)];
      expect(new Set(await operatorsOf(repository)), repository).toEqual(new Set(expected));
    }
  });

  it('merges an increment into its full, which reads as before', async () => {
    await bed.holdfast.json('chain', 'merge', VM, '--repo', 'vault');
    expect(await bed.holdfast.json<Backup>('backup', 'show', incremental.id)).toMatchObject({ type: 'full' });
    expect(await restored(incremental, 'again-5')).toBe(vda.sha256);
  });

  it('finishes a backup that runs while its key is rotated', async () => {
    const before = await stored(root, '.qcow2.age');
    await bed.holdfast.json('repo', 'limit', 'vault', '--rate', '2M');
    const running = bed.start('takeBackup', {
      vm: VM,
      repository: 'vault',
      quiesce: 'none',
      full: true,
      compression: 'none',
    });
    await until('it is being copied', async () => (await stored(root, '.qcow2.age')).length > before.length);
    const { recipient } = await bed.holdfast.json<{ recipient: string }>('repo', 'key', 'rotate', 'vault');
    await bed.holdfast.json('repo', 'limit', 'vault', '--off');
    const backup = await resultOf<Backup>(await running);
    expect(await restored(backup, 'again-6')).toBe(vda.sha256);
    const keys = execFileSync('age', ['-d', '-i', join(bed.dir, 'bob.key'), blob('keys/identity.age')]).toString();
    const [newest = ''] = keys.match(/^AGE-SECRET-KEY-1.*$/m) ?? [];
    expect(await identityToRecipient(newest)).toBe(recipient);
    const newestFile = join(bed.dir, 'newest.key');
    await writeFile(newestFile, newest);
    const opening = ['-d', '-i', newestFile, '-o', '/dev/null', blob(backup.disks[0]!.file)];
    expect(() => execFileSync('age', opening, { stdio: 'pipe' }), 'it was begun with the former one').toThrow(
      'no identity matched',
    );
  });

  it('still has nothing of the guest in any file, nor the picture of a validation', async () => {
    const validated = await bed.holdfast.json<Backup>(
      ...['backup', 'validate', incremental.id, '--steps', 'hash,boot,screenshot'],
    );
    expect(validated.validation).toBe('Valid');
    expect(await stored(root, '.png.age')).toHaveLength(1);
    expect(await telling()).toEqual([]);
  });
});
