import { cp, open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { rewriteKey, sumsKey } from '../../repository/layout.ts';
import { replaceManifest } from '../../repository/manifest.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { runByHand, type RunByHand } from '../support/by-hand.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { SAMPLE, sampleRepository, stateOfFolder, type SampleRepository } from '../support/sample-repository.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

/** All but the bucket, the keys, and libvirt. */
const TO_THE_DISKS = [1, 4, 5, 7];

describe('docs/restore-by-hand.md', () => {
  let repository: SampleRepository;
  let work: TempDir;
  let number = 0;
  beforeAll(async () => {
    repository = await sampleRepository();
    work = await tempDir('hf-hand');
  });
  afterAll(async () => {
    await repository[Symbol.asyncDispose]();
    await work[Symbol.asyncDispose]();
  });

  const newFolder = (): string => join(work.path, String((number += 1)));
  const byHand = (sections: number[], path: string, out = newFolder()): RunByHand & { out: string } => ({
    ...runByHand(sections, { repository: path, vm: 'web-1', out }),
    out,
  });
  async function hashes(out: string): Promise<Record<string, string>> {
    return {
      vda: await sha256OfImage(join(out, 'web-1-vda.qcow2'), 'qcow2'),
      vdb: await sha256OfImage(join(out, 'web-1-vdb.raw'), 'raw'),
    };
  }
  async function copied(): Promise<string> {
    const path = newFolder();
    await cp(repository.path, path, { recursive: true });
    return path;
  }

  it('brings the youngest backup back, and writes nothing to the repository', async () => {
    const before = await stateOfFolder(repository.path);
    const { exitCode, stderr, stdout, out } = byHand(TO_THE_DISKS, repository.path);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(/^2026-11-21.*full.*\n2026-11-22.*incremental.*\n$/);
    expect(await hashes(out)).toEqual(repository.hashes.incremental);
    expect(await stateOfFolder(repository.path)).toEqual(before);
  });

  it('makes a definition with the new paths, and brings back what lay beside the disks', async () => {
    const path = await copied();
    const out = newFolder();
    // As if it had only disks that were files: what was none is left to the person.
    const script = [1, 4, 8];
    const ended = runByHand(script, { repository: path, vm: 'web-1', out }, { LIBVIRT_DEFAULT_URI: 'test:///nowhere' });
    expect(ended.stderr).toMatch(/nowhere/); // all but the last command, which needs a libvirt
    const definition = parseDomainXml(await readFile(join(out, 'web-1.xml'), 'utf8'));
    expect(definition.disks.map(({ sourcePath }) => sourcePath)).toEqual([
      join(out, 'web-1-vda.qcow2'),
      join(out, 'web-1-vdb.raw'),
    ]);
    const kept = join(out, 'files-of-vm/var/lib/libvirt');
    expect(await readFile(join(kept, 'qemu/nvram/web-1_VARS.fd'), 'utf8')).toBe('UEFI variables');
    expect(await readFile(join(kept, `swtpm/${SAMPLE.vmUuid}/tpm2/tpm2-00.permall`), 'utf8')).toBe('TPM state');
  });

  it('finds one altered byte of a file beneath, of a list of sums, and a file of another length', async () => {
    const [disk] = repository.manifests.full.disks;
    const altered = async (key: string, alter: (path: string) => Promise<void>): Promise<RunByHand> => {
      const path = await copied();
      await alter(join(path, key));
      return byHand(TO_THE_DISKS, path);
    };
    const content = await altered(disk!.file, async (path) => {
      await using file = await open(path, 'r+');
      await file.write(Buffer.from('X'), 0, 1, 3 * 1024 * 1024 + 5);
    });
    expect(content.exitCode).not.toBe(0);
    expect(content.stderr).toBe(`${disk!.file}: the bytes at ${3 * 1024 * 1024} were altered\n`);
    const sums = await altered(disk!.sums.file, (path) => writeFile(path, ''));
    expect(sums.exitCode).not.toBe(0);
    expect(sums.stderr).toContain(disk!.sums.file);
    const length = await altered(disk!.file, (path) => writeFile(path, Buffer.alloc(1), { flag: 'a' }));
    expect(length).toMatchObject({ exitCode: 1, stderr: `${disk!.file}: no manifest has it with this length\n` });
  });

  it('opens an encrypted repository whose names are hidden, by the identity of an operator', async () => {
    await using secret = await sampleRepository({ encrypted: true });
    const out = newFolder();
    const settings = { repository: secret.path, vm: 'web-1', out, identity: secret.identityFile };
    const { exitCode, stderr } = runByHand([1, 3, 4, 5, 6, 7], settings);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(await hashes(out)).toEqual(secret.hashes.incremental);
    const [opened] = await readdir(join(out, 'manifests', SAMPLE.vmUuid, 'backups'));
    const manifest: unknown = JSON.parse(
      await readFile(join(out, 'manifests', SAMPLE.vmUuid, 'backups', opened!), 'utf8'),
    );
    expect(manifest).toEqual(opened?.startsWith(SAMPLE.full) ? secret.manifests.full : secret.manifests.incremental);
  });

  it('reads a file that is being swapped', async () => {
    const path = await copied();
    const { full } = repository.manifests;
    const [vda, vdb] = full.disks;
    const temporary = rewriteKey(vda!.file, SAMPLE.incremental);
    await rename(join(path, vda!.sums.file), join(path, sumsKey(temporary)));
    const sums = { ...vda!.sums, file: sumsKey(temporary) };
    const replacement = { ...vda!, sums, temporary, compression: 'none' as const };
    const disks = [{ ...vda!, storedBytes: 1, replacement }, vdb!];
    await replaceManifest(createDirectoryStore(path), { ...full, disks });
    const { exitCode, stderr, out } = byHand(TO_THE_DISKS, path);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(await hashes(out)).toEqual(repository.hashes.incremental);
  });
});
