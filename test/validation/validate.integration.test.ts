import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCatalog } from '../../catalog/open-catalog.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { ProvenBoot, ValidationResult } from '../../schemas/validation.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { manifestOf, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

const OFFERING = ['--validate', 'hash,boot,screenshot', '--boot-timeout', '10', '--end-chain-on-not-valid'];

type Validated = Backup & { validationResult: ValidationResult; damage?: string };

describe('a validation', () => {
  let bed: TestBed;
  let guest: Guest;
  let full: Backup;
  let incremental: Backup;
  beforeAll(async () => {
    bed = await startTestBed('kvm-val');
    guest = await bed.guest({
      name: 'val-1',
      disks: [
        { target: 'vda', sizeBytes: 48 * MiB, format: 'qcow2', fs: 'ext4' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', fs: 'none' },
      ],
      extraXml: `<interface type='user'><mac address='52:54:00:aa:bb:01'/></interface>`,
    });
    await bed.host.libvirt.create(guest.dom);
    const vdb = new PatternedDisk(1, 16 * MiB);
    await vdb.write(guest, 0, MiB, 0x11);
    full = await bed.take('val-1');
    await vdb.write(guest, 4 * MiB, MiB, 0x12);
    incremental = await bed.take('val-1');
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  /** Runs the command, whatever it ends with. */
  async function validate(backup: Backup, ...flags: string[]): Promise<Validated & { exitCode: number }> {
    const { exitCode, stdout, stderr } = await bed.holdfast.cli('--json', 'backup', 'validate', backup.id, ...flags);
    if (stdout === '') throw new Error(stderr);
    return { ...(JSON.parse(stdout) as Validated), exitCode };
  }
  const shown = async (backup: Backup): Promise<Validated> => await bed.holdfast.json('backup', 'show', backup.id);
  const outcomes = ({ validationResult }: Validated) =>
    Object.fromEntries(validationResult.steps.map(({ step, result }) => [step, result]));
  async function flip(key: string, at: number): Promise<void> {
    await using file = await open(bed.holdfast.blob(key), 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
    await file.write(Buffer.from([(buffer[0] ?? 0) ^ 0x01]), 0, 1, at);
  }
  const fileOf = (backup: Backup, target: string): string =>
    backup.disks.find((disk) => disk.target === target)?.file ?? '';

  it('hashes the whole chain, and tells file and offset of what is damaged in a parent', async () => {
    const valid = await validate(incremental, '--steps', 'hash');
    expect(valid).toMatchObject({ id: incremental.id, validation: 'Valid', exitCode: 0 });
    expect(valid.validationResult).toMatchObject({ state: 'Valid', bootMs: null, host: 'kvm-val', screenshot: null });
    expect(await manifestOf(bed.holdfast, incremental)).toMatchObject({
      validation: 'Valid',
      validationResult: valid.validationResult,
    });
    expect((await shown(incremental)).validationResult).toEqual(valid.validationResult);

    await flip(fileOf(full, 'vda'), 200_000);
    const damaged = await validate(incremental, '--steps', 'hash');
    expect(damaged).toMatchObject({ validation: 'NotValid', exitCode: 1 });
    expect(outcomes(damaged)).toEqual({ hash: 'failed' });
    expect(damaged.validationResult.steps[0]?.detail).toMatch(
      new RegExp(`${fileOf(full, 'vda')}: bytes \\d+ to \\d+ were altered`),
    );
    expect((await shown(full)).damage).toContain(fileOf(full, 'vda'));
    expect((await shown(incremental)).damage).toBe(`built on backup ${full.id}, which is not valid`);
    expect(await manifestOf(bed.holdfast, incremental)).toMatchObject({ validation: 'NotValid' });

    await flip(fileOf(full, 'vda'), 200_000);
    for (const backup of [full, incremental]) {
      expect(await validate(backup, '--steps', 'hash')).toMatchObject({ validation: 'Valid' });
      expect((await shown(backup)).damage).toBeUndefined();
    }
  });

  /** Hash, owner, mode and label of every file of the repository, by name. */
  async function repositoryFiles(): Promise<Record<string, string>> {
    const entries = await readdir(bed.holdfast.repositoryDir, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
    const facts = await Promise.all(
      files.map(async (path) => {
        const { uid, gid, mode, mtimeMs } = await stat(path);
        const sha256 = createHash('sha256')
          .update(await readFile(path))
          .digest('hex');
        return [path, `${sha256} ${uid}:${gid} ${mode.toString(8)} ${mtimeMs}`] as const;
      }),
    );
    return Object.fromEntries(facts);
  }
  /** Files that belong to data and sums: what a validation adds is its picture and the result in the manifest. */
  const stored = (files: Record<string, string>) =>
    Object.fromEntries(Object.entries(files).filter(([path]) => /\.(qcow2|sums)$/.test(path)));

  it('boots a throw-away VM, takes its picture and runs the command; backup and original stay as they are', async () => {
    const before = stored(await repositoryFiles());
    const running = await originalXml();
    const argv = [
      '/bin/sh',
      '-c',
      'printf "%s|" "$@"; hostname',
      'x',
      'a,b',
      `it's "quoted"`,
      '--flag',
      'two  spaces',
      '',
    ];
    const validated = await validate(
      incremental,
      '--steps',
      'hash,boot,screenshot,command',
      '--output',
      `a,b|it's "quoted"|--flag|two  spaces||guest`,
      '--',
      ...argv,
    );
    expect(validated.validationResult.steps.filter(({ result }) => result !== 'passed')).toEqual([]);
    expect(outcomes(validated)).toEqual({ hash: 'passed', boot: 'passed', screenshot: 'passed', command: 'passed' });
    expect(validated).toMatchObject({ validation: 'Valid', exitCode: 0 });
    expect(validated.validationResult.bootMs).toBeGreaterThan(0);
    const picture = await readFile(bed.holdfast.blob(validated.validationResult.screenshot ?? ''));
    expect(picture.subarray(1, 4).toString()).toBe('PNG');
    expect(stored(await repositoryFiles())).toEqual(before);
    expect(await originalXml()).toBe(running);
    await expectNothingLeft();
  });

  it('shows when the VM last proved to boot; a command that is not configured proves nothing', async () => {
    const { lastBoot } = await bed.holdfast.json<{ lastBoot: ProvenBoot }>('vm', 'show', 'val-1');
    expect(lastBoot).toMatchObject({ backupId: incremental.id });
    expect(lastBoot.bootMs).toBeGreaterThan(0);
    const text = (await bed.holdfast.cli('vm', 'show', 'val-1')).stdout;
    expect(text).toMatch(
      new RegExp(`last proved to boot 20.*, from backup ${incremental.id.slice(0, 8)}, in [\\d.]+ s`),
    );
    const validated = await validate(full, '--steps', 'boot,command');
    expect(outcomes(validated)).toEqual({ boot: 'passed', command: 'skipped' });
    expect(validated.validationResult.steps[1]?.detail).toBe('no command is configured');
    expect(await bed.holdfast.json('vm', 'show', 'val-1')).toMatchObject({ lastBoot: { backupId: full.id } });
  });

  it('is not valid when the command is ended by a signal; one without output is fine', async () => {
    const killed = await validate(full, '--steps', 'command', '--', '/bin/sh', '-c', 'kill -9 $$');
    expect(killed).toMatchObject({ validation: 'NotValid', exitCode: 1 });
    expect(killed.validationResult.steps).toMatchObject([
      { step: 'command', result: 'failed', detail: '/bin/sh was ended by signal 9' },
    ]);
    const silent = await validate(full, '--steps', 'command', '--exit-code', '3', '--', '/bin/sh', '-c', 'exit 3');
    expect(outcomes(silent)).toEqual({ command: 'passed' });
    const absent = await validate(full, '--steps', 'command', '--', '/bin/no-such-program');
    expect(absent.validationResult.steps[0]?.detail).toMatch(/^\/bin\/no-such-program was not started: /);
    await expectNothingLeft();
  });

  it('refuses to let QEMU follow a name in a stored header, also where the sums agree with it', async () => {
    const key = fileOf(full, 'vda');
    const manifestKey = `${guest.uuid}/backups/${full.id}.json`;
    const kept = await Promise.all([key, `${key}.sums`, manifestKey].map((one) => readFile(bed.holdfast.blob(one))));
    try {
      await nameBackingFile(bed.holdfast.blob(key), '/etc/passwd', bed.holdfast.blob(manifestKey), key);
      const validated = await validate(full, '--steps', 'hash,boot');
      expect(outcomes(validated)).toEqual({ hash: 'passed', boot: 'failed' });
      expect(validated.validationResult.steps[1]?.detail).toBe(
        `${key}: its header names the backing file /etc/passwd, the manifest none`,
      );
    } finally {
      await Promise.all(
        [key, `${key}.sums`, manifestKey].map((one, index) => writeFile(bed.holdfast.blob(one), kept[index] ?? '')),
      );
    }
    await expectNothingLeft();
  });

  it('survives the death of the worker, and a restart of libvirtd, in mid-boot', async () => {
    for (const disturb of [
      async () => {
        await bed.holdfast.kill('host');
        await bed.holdfast.isBack('host');
      },
      () => bed.host.restartLibvirtd(),
    ]) {
      const result = validate(incremental, '--steps', 'boot');
      await until('the throw-away VM runs', async () => (await throwAways()).length > 0, { timeoutMs: 120_000 });
      await disturb();
      expect(outcomes(await result)).toEqual({ boot: 'passed' });
      await expectNothingLeft();
    }
  });

  it('leaves nothing when it is ended by force: the next one, or reclaim, removes it', async () => {
    const job = await bed.holdfast.json<{ jobId: string }>(
      'backup',
      'validate',
      incremental.id,
      '--steps',
      'boot',
      '--no-wait',
    );
    await until('the throw-away VM runs', async () => (await throwAways()).length > 0, { timeoutMs: 120_000 });
    await bed.holdfast.kill('host'); // so that no attempt ends in good order
    await (await bed.holdfast.client()).workflow.getHandle(job.jobId).terminate();
    await bed.holdfast.isBack('host');
    expect((await shown(incremental)).validation).toBe('Validating');
    const { found } = await bed.holdfast.json<{ found: string[] }>('reclaim', '--grace', '0');
    expect(found.join('\n')).toContain(`throw-away VM of backup ${incremental.id}`);
    expect((await shown(incremental)).validation).toBe('Valid');
    await expectNothingLeft();
  });

  it('boots a VM with copies of its UEFI variables and of the state of its TPM', async () => {
    const firmware = await bed.guest({
      name: 'val-uefi',
      machine: 'q35',
      disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' }],
      extraXml: `<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
        <interface type='user'><model type='virtio'/></interface>`,
    });
    await redefine(firmware, (xml) =>
      xml.replace(
        '<kernel>',
        `<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
         <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/><kernel>`,
      ),
    );
    await bed.host.libvirt.create(firmware.dom);
    const backup = await bed.take(firmware.name);
    const state = join(bed.host.dir, 'lib'); // what the daemon calls /var/lib/libvirt
    const kept = async () => [await readdir(join(state, 'swtpm')), await readdir(join(state, 'qemu', 'nvram'))];
    const before = await kept();
    const validated = await validate(backup, '--steps', 'boot');
    expect(validated.validationResult.steps).toMatchObject([{ step: 'boot', result: 'passed' }]);
    expect(await kept()).toEqual(before);
    expect((await bed.host.libvirt.state(firmware.dom)).state).toBe('running');
    await bed.host.libvirt.destroy(firmware.dom);
    await expectNothingLeft();
  });

  // From here on each waits, most of the time, for something of its own.
  it.concurrent('waits for room; meanwhile the backup cannot be deleted, and cancelled it is what it was', async () => {
    const large = await bed.guest({
      name: 'val-large',
      disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' }],
      memoryMiB: Math.floor(totalmem() / MiB) - 600,
    });
    const backup = await bed.take(large.name);
    const { jobId } = await bed.holdfast.json<{ jobId: string }>('backup', 'validate', backup.id, '--no-wait');
    const waitingFor = async () =>
      (await bed.holdfast.json<{ waitingFor: string | null }>('job', 'show', jobId)).waitingFor;
    await until('it waits', async () => (await waitingFor()) !== null, { timeoutMs: 60_000, everyMs: 500 });
    expect(await waitingFor()).toMatch(
      /^waiting for room on kvm-val: needs [\d.]+ GiB, [\d.]+ GiB of [\d.]+ GiB are free$/,
    );
    const refused = await bed.holdfast.cli('backup', 'delete', backup.id, '--json');
    expect(JSON.parse(refused.stderr)).toMatchObject({ error: { type: 'BackupNotDeletable' } });
    const second = await bed.holdfast.cli('backup', 'validate', backup.id, '--steps', 'hash', '--json');
    expect(JSON.parse(second.stderr)).toMatchObject({ error: { type: 'ValidationRunning' } });
    await bed.holdfast.json('job', 'cancel', jobId);
    expect((await shown(backup)).validation).toBe('NotValidated');
  });

  it.concurrent('looks at the screen of a VM without a guest agent, and says that its boot is not proved', async () => {
    const mute = await bed.guest({
      name: 'val-mute',
      disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await redefine(mute, (xml) => xml.replace(/<channel[\s\S]*?<\/channel>/, ''));
    const backup = await bed.take(mute.name);
    const validated = await validate(backup);
    expect(outcomes(validated)).toEqual({ hash: 'passed', boot: 'skipped', screenshot: 'passed' });
    expect(validated).toMatchObject({ validation: 'Valid', validationResult: { bootMs: null } });
    expect(await bed.holdfast.json('vm', 'show', mute.name)).toMatchObject({ lastBoot: null });
  });

  it.concurrent(
    'after a backup, as its offering says: what does not boot is not valid, has its picture, and ends the chain',
    async () => {
      const broken = await bed.guest({
        name: 'val-broken',
        disks: [{ target: 'vda', sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' }],
      });
      await redefine(broken, (xml) => xml.replace('panic=5', 'rdinit=/no-such-init'));
      await bed.holdfast.json('offering', 'create', 'proven', ...OFFERING);
      await bed.holdfast.json('vm', 'ls'); // makes the VM known
      await bed.holdfast.json('offering', 'assign', 'proven', broken.name);
      const backup = await bed.take(broken.name);
      await until('it is validated', async () => (await shown(backup)).validation === 'NotValid', {
        timeoutMs: 180_000,
        everyMs: 1000,
      });
      const found = await shown(backup);
      expect(found).toMatchObject({ validation: 'NotValid', endOfChain: true });
      expect(found.damage).toBeUndefined(); // its bytes are right
      expect(outcomes(found)).toEqual({ hash: 'passed', boot: 'failed', screenshot: 'passed' });
      expect(found.validationResult.steps[1]?.detail).toMatch(/^the guest agent did not answer within 10 s/);
      const picture = await readFile(bed.holdfast.blob(found.validationResult.screenshot ?? ''));
      expect(picture.subarray(1, 4).toString()).toBe('PNG');
      await using catalog = await openCatalog(`sqlite:${join(bed.holdfast.dataDir, 'catalog.sqlite')}`);
      expect(await catalog.events.list({ vmUuid: broken.uuid })).toContainEqual(
        expect.objectContaining({ kind: 'backup-not-valid', backupId: backup.id }),
      );
      await bed.holdfast.json('offering', 'remove', broken.name);
      expect(await bed.take(broken.name)).toMatchObject({ type: 'full', disks: [{ fullReason: 'parent-not-valid' }] });
    },
  );

  /** The original as it runs, but for whether its agent has answered yet. */
  const originalXml = async (): Promise<string> =>
    (await bed.host.libvirt.domainXml(guest.dom)).replace(/ state='(dis)?connected'/, '');
  const throwAways = async (): Promise<string[]> =>
    (await bed.host.libvirt.listDomains()).map(({ name }) => name).filter((name) => name.startsWith('holdfast-'));

  async function redefine(vm: Guest, change: (xml: string) => string): Promise<void> {
    const xml = await bed.host.libvirt.domainXml(vm.dom, { inactive: true });
    const changed = change(xml);
    expect(changed).not.toBe(xml);
    await bed.host.libvirt.define(changed);
  }

  async function expectNothingLeft(): Promise<void> {
    expect(await throwAways()).toEqual([]);
    const state = join(bed.holdfast.dataDir, 'hosts', bed.host.name);
    for (const folder of ['validations', 'scratch']) {
      expect(await readdir(join(state, folder)).catch(() => [])).toEqual([]);
    }
    expect((await bed.host.libvirt.state(guest.dom)).state).toBe('running');
  }
});

/** Gives a full a backing file, as one who can write to the repository would: with sums and manifest that agree. */
async function nameBackingFile(path: string, name: string, manifestPath: string, key: string): Promise<void> {
  const content = await readFile(path);
  content.writeBigUInt64BE(512n, 8);
  content.writeUInt32BE(name.length, 16);
  content.write(name, 512, 'latin1');
  const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const lines = (await readFile(`${path}.sums`, 'latin1')).split('\n').map((line) => {
    const [, offset = '', length = ''] = line.split('  ');
    return offset === ''
      ? ''
      : [sha256(content.subarray(Number(offset), Number(offset) + Number(length))), offset, length].join('  ');
  });
  const sums = Buffer.from(lines.join('\n'), 'latin1');
  const manifest = JSON.parse(await readFile(manifestPath, 'utf8')) as Manifest;
  for (const disk of manifest.disks) if (disk.file === key) disk.sums.sha256 = sha256(sums);
  await writeFile(path, content);
  await writeFile(`${path}.sums`, sums);
  await writeFile(manifestPath, JSON.stringify(manifest));
}
