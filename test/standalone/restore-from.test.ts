import { spawn } from 'node:child_process';
import { cp, mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { RestorePreview } from '../../schemas/restore-plan.ts';
import { HOLDFAST, runCli } from '../cli/run-cli.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { SAMPLE, sampleRepository, stateOfFolder, type SampleRepository } from '../support/sample-repository.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

interface Restored extends RestoredVm {
  definition: string | null;
  files: { kind: string; path: string }[];
  commandsLeft: string[];
}

describe('commands with --from', () => {
  let repository: SampleRepository;
  let work: TempDir;
  let number = 0;
  beforeAll(async () => {
    repository = await sampleRepository();
    work = await tempDir('hf-alone');
  });
  afterAll(async () => {
    await repository[Symbol.asyncDispose]();
    await work[Symbol.asyncDispose]();
  });

  /** Runs a command in an empty folder of its own, on a machine without installation. */
  async function alone(...args: string[]) {
    const cwd = join(work.path, String((number += 1)));
    await mkdir(cwd);
    const ended = runCli([...args, '--json'], { cwd });
    return { cwd, ...ended };
  }
  async function json<T>(...args: string[]): Promise<T & { cwd: string }> {
    const { cwd, exitCode, stdout, stderr } = await alone(...args);
    if (exitCode !== 0) throw new Error(stderr);
    return Object.assign(JSON.parse(stdout) as T & object, { cwd });
  }
  async function failure(...args: string[]) {
    const { cwd, exitCode, stderr } = await alone(...args);
    const { error } = JSON.parse(stderr) as { error: { type: string; message: string } };
    return { cwd, exitCode, ...error };
  }
  const from = () => ['--from', repository.path];
  async function hashes(disks: RestoredVm['disks']): Promise<Record<string, string>> {
    const found: Record<string, string> = {};
    for (const { target, path } of disks) {
      const format = path.endsWith('.img') ? 'raw' : 'qcow2';
      if (format === 'qcow2') await qemuImgCheck(path);
      found[target] = await sha256OfImage(path, format);
    }
    return found;
  }

  it('brings a VM back with one command, and writes nothing but that', async () => {
    const before = await stateOfFolder(repository.path);
    const restored = await json<Restored>('restore', '2b22', ...from());
    expect(restored.vm).toEqual({ uuid: SAMPLE.vmUuid, name: 'web-1' });
    const folder = join(restored.cwd, 'web-1');
    expect(restored.disks).toEqual([
      { target: 'vda', path: join(folder, 'web-1-vda.qcow2'), verified: true },
      { target: 'vdb', path: join(folder, 'web-1-vdb.img'), verified: true },
    ]);
    expect(await hashes(restored.disks)).toEqual(repository.hashes.incremental);
    expect(await readdir(restored.cwd)).toEqual(['web-1']); // no .holdfast
    expect((await readdir(folder, { recursive: true })).toSorted()).toEqual([
      'web-1-tpm',
      'web-1-tpm/tpm2',
      'web-1-tpm/tpm2/tpm2-00.permall',
      'web-1-vda.qcow2',
      'web-1-vdb.img',
      'web-1.xml',
      'web-1_VARS.fd',
    ]);
    expect(await stateOfFolder(repository.path)).toEqual(before);
  });

  it('writes a definition that names what it wrote, and says what is left to do', async () => {
    const restored = await json<Restored>('restore', 'latest', '--vm', 'web-1', ...from(), '--to', 'a folder');
    const folder = join(restored.cwd, 'a folder');
    const definition = parseDomainXml(await readFile(restored.definition ?? '', 'utf8'));
    expect(definition.uuid).toBe(SAMPLE.vmUuid);
    expect(
      definition.disks.map(({ target, sourceType, sourcePath, format }) => [target, sourceType, sourcePath, format]),
    ).toEqual([
      ['vda', 'file', join(folder, 'web-1-vda.qcow2'), 'qcow2'],
      ['vdb', 'file', join(folder, 'web-1-vdb.img'), 'raw'],
    ]);
    expect(definition.nvram?.path).toBe(join(folder, 'web-1_VARS.fd'));
    expect(await readFile(join(folder, 'web-1_VARS.fd'), 'utf8')).toBe('UEFI variables');
    expect((await stat(restored.definition ?? '')).mode & 0o777).toBe(0o600);
    expect(restored.commandsLeft).toEqual([
      `install -D -m 600 '${folder}/web-1-tpm/tpm2/tpm2-00.permall' /var/lib/libvirt/swtpm/${SAMPLE.vmUuid}/tpm2/tpm2-00.permall`,
      `virsh define '${folder}/web-1.xml'`,
    ]);
  });

  it('makes a new VM of it with --as, in the format that is asked for', async () => {
    const restored = await json<Restored>('restore', '1a11', ...from(), '--as', 'web-1-test', '--format', 'raw');
    expect(await hashes(restored.disks)).toEqual(repository.hashes.full);
    expect(restored.disks.map(({ path }) => path.slice(path.lastIndexOf('/') + 1))).toEqual([
      'web-1-test-vda.img',
      'web-1-test-vdb.img',
    ]);
    const definition = parseDomainXml(await readFile(restored.definition ?? '', 'utf8'));
    expect(definition.name).toBe('web-1-test');
    expect(definition.uuid).toBe(restored.vm.uuid);
    expect(definition.uuid).not.toBe(SAMPLE.vmUuid);
    expect(definition.interfaces.map(({ mac }) => mac)).toEqual([null]);
  });

  it('tells by a dry run what would be written and what would be refused, and writes nothing', async () => {
    const preview = await json<RestorePreview>('restore', '2b22', ...from(), '--dry-run');
    expect(preview.disks.map(({ target, action, format }) => [target, action, format])).toEqual([
      ['vda', 'created', 'qcow2'],
      ['vdb', 'created', 'raw'],
    ]);
    expect(preview.refused).toEqual([]);
    expect(await readdir(preview.cwd)).toEqual([]);
    const there = await json<RestorePreview>(
      'restore',
      '2b22',
      ...from(),
      '--to',
      join(work.path, '1', 'web-1'),
      '--dry-run',
    );
    expect(there.refused[0]).toMatch(/web-1-vda.qcow2 exists/);
  });

  it('shows a backup, its chain, and what is missing of it', async () => {
    const shown = await json<{ id: string; chain: { files: { file: string }[]; problem: string | null } }>(
      ...['backup', 'show', 'latest', ...from()],
    );
    expect(shown.id).toBe(SAMPLE.incremental);
    expect(shown.chain.problem).toBeNull();
    expect(shown.chain.files.map(({ file }) => file)).toEqual([
      `${SAMPLE.vmUuid}/disk-0/full-20261121-120000.qcow2`,
      `${SAMPLE.vmUuid}/disk-0/incr-20261122-120000.qcow2`,
      `${SAMPLE.vmUuid}/disk-1/full-20261122-120000.qcow2`,
    ]);
  });

  it('lists damaged manifests as such, and the others all the same', async () => {
    const copy = join(work.path, 'damaged');
    await cp(repository.path, copy, { recursive: true });
    const key = `${SAMPLE.vmUuid}/backups/${SAMPLE.incremental}.json`;
    await writeFile(join(copy, key), '{"version": 1');
    const listed = await json<(Backup & { damage?: string; file?: string })[]>('backup', 'ls', 'web-1', '--from', copy);
    expect(listed.map(({ id, state, file }) => ({ id, state, file }))).toEqual([
      { id: SAMPLE.full, state: 'BackedUp', file: undefined },
      { id: SAMPLE.incremental, state: 'Error', file: key },
    ]);
    expect(listed[1]?.damage).toMatch(/is not JSON/);
  });

  it('refuses what needs an installation with --from, and what needs --from without', async () => {
    expect(await failure('restore', '2b22', '--quick', ...from())).toMatchObject({ type: 'UsageError', exitCode: 2 });
    expect(await failure('restore', '2b22', '--start', ...from())).toMatchObject({
      type: 'InvalidRequest',
      exitCode: 2,
      message: 'with --from, --libvirt and --start go with --define',
    });
    expect(await failure('restore', '2b22', '--to', 'x')).toMatchObject({ message: '--to goes with --from' });
    expect(await failure('backup', 'mount', 'latest')).toMatchObject({ type: 'InvalidRequest', exitCode: 2 });
  });

  it('removes what it wrote when it is interrupted', async () => {
    const cwd = join(work.path, 'interrupted');
    await mkdir(cwd);
    const child = spawn(HOLDFAST, ['restore', '2b22', ...from()], { cwd, stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = Promise.withResolvers<number | null>();
    child.once('close', ended.resolve);
    child.stderr.once('data', () => child.kill('SIGINT')); // its first word: it begins to write
    const exitCode = await ended.promise;
    // Whoever is quicker: either all of it is there, or nothing.
    expect([exitCode, (await readdir(cwd, { recursive: true })).length > 0]).toEqual(
      exitCode === 0 ? [0, true] : [1, false],
    );
  });
});
