import { createHash } from 'node:crypto';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { createManifest } from '../../repository/manifest.ts';
import { newRepositoryKeys, writeRepositoryKeys } from '../../repository/repository-keys.ts';
import { sealManifest } from '../../repository/sealed-manifest.ts';
import { writeSums } from '../../repository/sums.ts';
import type { KeptFile, Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import { REPOSITORY_ID } from './blob-store-suite.ts';
import { encryptChain, newKeyPair } from './encrypted-chain.ts';
import { manifestOf } from './sample-manifest.ts';
import { describeStored, guestBytes, qemuImg, qemuIo, sha256, sizeOf } from './stored-chain.ts';
import { tempDir } from './temp.ts';

export const SAMPLE = {
  vmUuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e',
  full: '1a111111-0000-4000-8000-000000000001',
  incremental: '2b222222-0000-4000-8000-000000000002',
};

/** A directory repository with one VM of two disks, made by QEMU's tools: a full, and an increment of `vda` on it. */
export interface SampleRepository extends AsyncDisposable {
  path: string;
  store: BlobStore;
  manifests: { full: Manifest; incremental: Manifest };
  /** SHA-256 of what the guest sees of each disk, by target. */
  hashes: { full: Record<string, string>; incremental: Record<string, string> };
  /** Of an encrypted one: opens it. */
  identityFile: string;
}

const NVRAM = keptFile('nvram', '/var/lib/libvirt/qemu/nvram/web-1_VARS.fd', 'UEFI variables');
const TPM = keptFile('tpm', `/var/lib/libvirt/swtpm/${SAMPLE.vmUuid}/tpm2/tpm2-00.permall`, 'TPM state');

export const SAMPLE_XML = `<domain type='qemu'>
  <name>web-1</name>
  <uuid>${SAMPLE.vmUuid}</uuid>
  <memory unit='MiB'>192</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram>/var/lib/libvirt/qemu/nvram/web-1_VARS.fd</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/web-1.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg0/web-1-data'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <interface type='user'><mac address='52:54:00:aa:bb:01'/></interface>
  </devices>
</domain>`;

export async function sampleRepository({ encrypted = false } = {}): Promise<SampleRepository> {
  const folder = await tempDir('hf-sample');
  const path = join(folder.path, 'repository');
  await mkdir(path);
  const store = createDirectoryStore(path);
  const operator = await newKeyPair();
  const identityFile = join(folder.path, 'identity');
  await writeFile(identityFile, `${operator.identity}\n`, { mode: 0o600 });
  const { keys, recipient } = await newRepositoryKeys([operator.recipient]);
  const encryption = { format: 'age' as const, recipient, hideNames: true };
  await initRepository(store, { id: REPOSITORY_ID, ...(encrypted ? { encryption } : {}) });

  const disk = (number: number) => `${SAMPLE.vmUuid}/disk-${number}`;
  const vdaFull = await stored(store, path, `${disk(0)}/full-20261121-120000.qcow2`, {
    create: ['-o', 'cluster_size=256k'],
    size: '12M',
    writes: ['write -P 17 0 5M'],
  });
  const vdbFull = await stored(store, path, `${disk(1)}/full-20261121-120000.qcow2`, {
    create: [],
    size: '3M',
    writes: ['write -P 18 1M 64k'],
  });
  const vdaIncremental = await stored(store, path, `${disk(0)}/incr-20261122-120000.qcow2`, {
    create: ['-o', 'cluster_size=64k', '-b', 'full-20261121-120000.qcow2', '-F', 'qcow2'],
    writes: ['write -P 19 1M 192k', 'write -z 4M 1M'],
  });
  const vdbNext = await stored(store, path, `${disk(1)}/full-20261122-120000.qcow2`, {
    create: [],
    size: '3M',
    writes: ['write -P 20 2M 64k'],
  });

  const common = { files: [NVRAM, TPM], domainXml: { inactive: SAMPLE_XML, live: null } };
  const vda = { target: 'vda', number: 0, sourcePath: '/var/lib/libvirt/images/web-1.qcow2', sourceFormat: 'qcow2' };
  const vdb = { target: 'vdb', number: 1, sourcePath: '/dev/vg0/web-1-data', sourceFormat: 'raw' };
  const full = manifestOf(SAMPLE.full, {
    ...common,
    disks: [
      { ...vdaFull, ...vda, fullReason: 'first-backup' },
      { ...vdbFull, ...vdb, fullReason: 'first-backup' },
    ],
  });
  const incremental = manifestOf(SAMPLE.incremental, {
    ...common,
    type: 'incremental',
    parentId: SAMPLE.full,
    chainId: SAMPLE.full,
    position: 2,
    instant: '2026-11-22T12:00:00.000Z',
    disks: [
      { ...vdaIncremental, ...vda, type: 'incremental', fullReason: null, backingFile: vdaFull.file },
      { ...vdbNext, ...vdb, fullReason: 'format-without-bitmaps' },
    ],
  });
  const hashesOf = async ({ disks }: Manifest) =>
    Object.fromEntries(
      await Promise.all(
        disks.map(
          async ({ target, file }) => [target, sha256(await guestBytes(join(path, file), folder.path))] as const,
        ),
      ),
    );
  const hashes = { full: await hashesOf(full), incremental: await hashesOf(incremental) };
  const manifests = { full, incremental };
  if (encrypted) {
    await writeRepositoryKeys(store, keys);
    for (const each of [full, incremental]) each.disks = await encryptedDisks(store, each.disks, recipient);
  }
  for (const each of [full, incremental])
    await createManifest(store, encrypted ? await sealManifest(each, encryption) : each);
  return { path, store, manifests, hashes, identityFile, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

/** The same disks with their files encrypted, in place of the plain ones. */
async function encryptedDisks(store: BlobStore, disks: ManifestDisk[], recipient: string): Promise<ManifestDisk[]> {
  return await Promise.all(
    disks.map(async (disk) => {
      const chain = [{ source: store.source(disk.file), storedBytes: disk.storedBytes, segments: [] }];
      const [stored] = await encryptChain(chain, recipient);
      await store.deleteBlob(disk.file);
      await store.deleteBlob(disk.sums.file);
      const file = `${disk.file}.age`;
      return {
        ...disk,
        file,
        backingFile: disk.backingFile === null ? null : `${disk.backingFile}.age`,
        storedBytes: stored!.storedBytes,
        encryption: { format: 'age' as const, plainBytes: disk.storedBytes },
        sums: await writeSums(store, file, stored!.segments),
      };
    }),
  );
}

/** Makes a stored file with its sums, and describes it. */
async function stored(
  store: BlobStore,
  root: string,
  key: string,
  image: { create: string[]; size?: string; writes: string[] },
): Promise<ManifestDisk> {
  const path = join(root, key);
  await mkdir(join(path, '..'), { recursive: true });
  qemuImg('create', '-q', '-f', 'qcow2', ...image.create, path, ...(image.size === undefined ? [] : [image.size]));
  qemuIo(path, ...image.writes);
  const { segments, storedBytes } = await describeStored(path, key, [1024 * 1024]);
  const virtualSizeBytes = sizeOf(path);
  return {
    ...manifestOf(SAMPLE.full).disks[0]!,
    file: key,
    storedBytes,
    virtualSizeBytes,
    changedBytes: storedBytes,
    readBytes: storedBytes,
    sums: await writeSums(store, key, segments),
  };
}

function keptFile(kind: KeptFile['kind'], path: string, text: string): KeptFile {
  const content = Buffer.from(text);
  const hash = createHash('sha256').update(content).digest('hex');
  return { kind, path, mode: 0o600, sha256: hash, content: content.toString('base64') };
}

/** Names, sizes and times of everything below a folder: equal before and after, nothing was written there. */
export async function stateOfFolder(path: string): Promise<string[]> {
  const entries = await readdir(path, { recursive: true });
  const lines = await Promise.all(
    entries.toSorted().map(async (name) => {
      const { ino, size, mtimeMs, ctimeMs } = await stat(join(path, name));
      return `${name} ${ino} ${size} ${mtimeMs} ${ctimeMs}`;
    }),
  );
  return lines;
}
