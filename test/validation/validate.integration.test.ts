import { createHash } from 'node:crypto';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import type { Guest } from '../support/guest.ts';
import { manifestOf, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

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
    await expectNothingLeft();
  });

  async function expectNothingLeft(): Promise<void> {
    const domains = await bed.host.libvirt.listDomains();
    expect(domains.map(({ name }) => name).filter((name) => name.startsWith('holdfast-'))).toEqual([]);
    const state = join(bed.holdfast.dataDir, 'hosts', bed.host.name);
    for (const folder of ['validations', 'scratch']) {
      expect(await readdir(join(state, folder)).catch(() => [])).toEqual([]);
    }
    expect((await bed.host.libvirt.state(guest.dom)).state).toBe('running');
  }
});
