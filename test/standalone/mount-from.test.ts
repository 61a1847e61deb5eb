import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cp, mkdir, mkdtemp, open, readdir, readFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { completed, newBackup, T0 } from '../catalog/records.ts';
import { HOLDFAST } from '../cli/run-cli.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { SAMPLE, sampleRepository, stateOfFolder, type SampleRepository } from '../support/sample-repository.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

interface Mounted {
  backupId: string;
  vm: { uuid: string; name: string };
  disks: { target: string; sizeBytes: number; socketPath: string; uri: string }[];
}

describe('backup mount', () => {
  let work: TempDir;
  let repository: SampleRepository;
  let number = 0;
  beforeAll(async () => {
    work = await tempDir('hf-mount');
    repository = await sampleRepository();
  });
  afterAll(async () => {
    await repository[Symbol.asyncDispose]();
    await work[Symbol.asyncDispose]();
  });

  /** Runs the command in an empty folder until it is told to stop; `ended` gives its exit code. */
  async function mount(...args: string[]) {
    const cwd = join(work.path, String((number += 1)));
    await mkdir(join(cwd, 'tmp'), { recursive: true });
    const child = spawn(HOLDFAST, ['backup', 'mount', ...args, '--json'], {
      cwd,
      env: { ...process.env, TMPDIR: join(cwd, 'tmp'), TEMPORAL_ADDRESS: '127.0.0.1:1' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit') as Promise<[number | null]>;
    let printed = '';
    for await (const line of createInterface(child.stdout)) {
      printed += line;
      if (line === '}') break;
    }
    return {
      cwd,
      mounted: JSON.parse(printed) as Mounted,
      stop: async (): Promise<number | null> => {
        child.kill('SIGINT');
        const [exitCode] = await exited;
        return exitCode;
      },
    };
  }

  const read = async (uri: string, to: string): Promise<void> => {
    await promisify(execFile)('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, to]);
  };

  it('serves every byte of every disk until Ctrl-C, and leaves nothing', async () => {
    const before = await stateOfFolder(repository.path);
    const { cwd, mounted, stop } = await mount('latest', '--vm', 'web-1', '--from', repository.path);
    try {
      expect(mounted).toMatchObject({ backupId: SAMPLE.incremental, vm: { uuid: SAMPLE.vmUuid, name: 'web-1' } });
      const hashes: Record<string, string> = {};
      for (const { target, uri } of mounted.disks) {
        const to = join(work.path, `${target}.raw`);
        await read(uri, to);
        hashes[target] = await sha256OfImage(to, 'raw');
      }
      expect(hashes).toEqual(repository.hashes.incremental);
    } finally {
      expect(await stop()).toBe(0);
    }
    expect(await readdir(cwd, { recursive: true })).toEqual(['tmp']); // no .holdfast, no socket
    expect(await stateOfFolder(repository.path)).toEqual(before);
  });

  it('serves an encrypted repository with an identity, in a folder that stays', async () => {
    await using encrypted = await sampleRepository({ encrypted: true });
    const identity = ['--identity-file', encrypted.identityFile];
    const { cwd, mounted, stop } = await mount(
      '1a11',
      '--from',
      encrypted.path,
      ...identity,
      '--socket-dir',
      'sockets',
    );
    try {
      expect(await readdir(join(cwd, 'sockets'))).toEqual(['vda', 'vdb']);
      const to = join(work.path, 'encrypted.raw');
      await read(mounted.disks[0]!.uri, to);
      expect(await sha256OfImage(to, 'raw')).toBe(encrypted.hashes.full['vda']);
    } finally {
      expect(await stop()).toBe(0);
    }
    expect((await readdir(cwd, { recursive: true })).toSorted()).toEqual(['sockets', 'tmp']);
  });

  it('gives an I/O error where bytes were altered', async () => {
    const altered = join(work.path, 'altered');
    await cp(repository.path, altered, { recursive: true });
    const { file, storedBytes } = repository.manifests.full.disks[0]!;
    await using handle = await open(join(altered, file), 'r+');
    await handle.write(Buffer.from([1]), 0, 1, storedBytes - 1);
    const { mounted, stop } = await mount('1a11', '--from', altered);
    try {
      await expect(read(mounted.disks[0]!.uri, join(work.path, 'altered.raw'))).rejects.toThrow('Input/output error');
    } finally {
      expect(await stop()).toBe(0);
    }
  });

  it('serves the copy of a backup of the catalog whose repository is named, or where the original is gone', async () => {
    const data = await mkdtemp(join(work.path, 'data-'));
    {
      await using catalog = await openCatalog(`sqlite:${join(data, 'catalog.sqlite')}`);
      const { id } = JSON.parse(await readFile(join(repository.path, 'repository.json'), 'utf8')) as { id: string };
      const places = { main: [randomUUID(), join(work.path, 'gone')], 'off-site': [id, repository.path] } as const;
      for (const [name, [uuid, path]] of Object.entries(places)) {
        await catalog.repositories.add({ name, id: uuid, location: { kind: 'directory', path }, slots: 1 });
      }
      const backup = newBackup({ id: SAMPLE.full, vmUuid: SAMPLE.vmUuid });
      await catalog.backups.create(backup);
      await catalog.backups.complete(completed(SAMPLE.full));
      const copy = { state: 'Copied' as const, type: 'full' as const, parentId: null, disks: [], copiedAt: T0 };
      await catalog.copies.note({ backupId: SAMPLE.full, repository: 'off-site', ...copy });
    }
    for (const flags of [['--repo', 'off-site'], []]) {
      if (flags.length === 0) {
        await using catalog = await openCatalog(`sqlite:${join(data, 'catalog.sqlite')}`);
        await catalog.backups.setState(SAMPLE.full, 'Expunged');
      }
      const { mounted, stop } = await mount(SAMPLE.full, '--data', data, ...flags);
      try {
        const to = join(work.path, 'of-copy.raw');
        await read(mounted.disks.find(({ target }) => target === 'vda')!.uri, to);
        expect(await sha256OfImage(to, 'raw')).toBe(repository.hashes.full['vda']);
      } finally {
        expect(await stop()).toBe(0);
      }
    }
  });
});
