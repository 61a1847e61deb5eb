import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { Backup } from '../../schemas/backup.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import {
  expectStored,
  kindsOf,
  manifestOf,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

describe('a restore', () => {
  let bed: TestBed;
  let guest: Guest;
  let full: Backup;
  let incremental: Backup;
  const vda = new PatternedDisk(0, 48 * MiB);
  const vdb = new PatternedDisk(1, 48 * MiB);
  let hashes: Record<string, string>;

  beforeAll(async () => {
    bed = await startTestBed('kvm-restore');
    guest = await bed.guest({
      name: 'web-1',
      disks: [
        { target: 'vda', sizeBytes: 48 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: 48 * MiB, format: 'raw', fs: 'none' },
      ],
      extraXml: `<interface type='user'><mac address='52:54:00:aa:bb:01'/></interface>`,
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 30 * MiB, 0x11);
    await vdb.write(guest, 8 * MiB, MiB, 0x12);
    full = await bed.take('web-1');
    await vda.write(guest, 4 * MiB, 2 * MiB, 0x13);
    await vdb.write(guest, 9 * MiB, MiB, 0x14);
    incremental = await bed.take('web-1');
    hashes = { vda: vda.sha256, vdb: vdb.sha256 };
    await bed.host.libvirt.destroy(guest.dom);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const image = (target: string): string => guest.disks.find((disk) => disk.target === target)?.path ?? '';
  const contents = async () => ({
    vda: await sha256OfImage(image('vda'), 'qcow2'),
    vdb: await sha256OfImage(image('vdb'), 'raw'),
  });
  /** Inode, size and change time of each file in the disks' folder. */
  const files = async (): Promise<Record<string, string>> => {
    const names = (await readdir(guest.dir)).toSorted();
    const infos = await Promise.all(names.map(async (name) => [name, await stat(join(guest.dir, name))] as const));
    return Object.fromEntries(infos.map(([name, { ino, size, mtimeMs }]) => [name, `${ino} ${size} ${mtimeMs}`]));
  };
  /** Refused with the message, and the VM's disks are the same files as before, no other beside them. */
  async function expectRefused(message: RegExp, request: Parameters<TestBed['restore']>[1] = {}): Promise<void> {
    const before = await files();
    await expect(bed.restore(incremental.id, request)).rejects.toThrow(message);
    expect(await files()).toEqual(before);
  }
  /** Alters a file of the repository while `act` runs. */
  async function altered(key: string, alter: (path: string) => Promise<void>, act: () => Promise<void>): Promise<void> {
    const path = bed.holdfast.blob(key);
    await copyFile(path, `${path}.kept`);
    await alter(path);
    try {
      await act();
    } finally {
      await rename(`${path}.kept`, path);
    }
  }
  const alteredByte = (at: (sizeBytes: number) => number) => async (path: string) => {
    await using file = await open(path, 'r+');
    const offset = at((await file.stat()).size);
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, offset);
    await file.write(Buffer.from([(buffer[0] ?? 0) ^ 0x01]), 0, 1, offset);
  };
  const fileOf = (backup: Backup, target: string): string =>
    backup.disks.find((disk) => disk.target === target)?.file ?? '';

  it('is refused, with the name of the file, when a file of the chain is missing, short or altered', async () => {
    const key = fileOf(full, 'vda');
    await altered(key, rm, () => expectRefused(new RegExp(`^BackupFileMissing: .*${key}`)));
    await altered(
      key,
      (path) => truncate(path, 65_536),
      () => expectRefused(new RegExp(`^IntegrityMismatch: .*${key}`)),
    );
    for (const [what, at] of [
      ['data', () => 200_000],
      ['its tables', (size: number) => size - 8],
      ['its header', () => 40],
    ] as const) {
      await altered(key, alteredByte(at), async () => {
        await expectRefused(new RegExp(`^IntegrityMismatch: .*${key}`)).catch((error: unknown) => {
          throw new Error(`altered ${what}`, { cause: error });
        });
      });
    }
    const sums = `${fileOf(incremental, 'vda')}.sums`;
    await altered(
      sums,
      alteredByte(() => 3),
      () => expectRefused(new RegExp(`^IntegrityMismatch: .*${sums}`)),
    );
    await altered(sums, rm, () => expectRefused(new RegExp(`^BackupFileMissing: .*${sums}`)));
    const manifest = `${guest.uuid}/backups/${full.id}.json`;
    await altered(manifest, rm, () => expectRefused(new RegExp(`^BackupFileMissing: .*${manifest}`)));
    await altered(
      manifest,
      alteredByte(() => 0),
      () => expectRefused(new RegExp(manifest)),
    );
  });

  it('is refused when the definition in the manifest is no domain', async () => {
    const manifest = `${guest.uuid}/backups/${incremental.id}.json`;
    const broken = async (path: string): Promise<void> => {
      const content = JSON.parse(await readFile(path, 'utf8')) as { domainXml: { inactive: string } };
      content.domainXml.inactive = '<domain><name>../../x</name>';
      await writeFile(path, JSON.stringify(content));
    };
    await altered(manifest, broken, () => expectRefused(/^VmDefinitionInvalid: /, { as: 'copy' }));
    expect(await bed.host.libvirt.lookupByName('copy')).toBeUndefined();
  });

  it('is refused while the VM runs, has snapshots or saved memory, and for a name that is taken', async () => {
    await expectRefused(/^VmNameTaken: host kvm-restore has a VM web-1 already/, { as: 'web-1' });
    await bed.host.libvirt.create(guest.dom);
    await expect(bed.restore(incremental.id)).rejects.toThrow(/^VmNotStopped: VM web-1 is running; stop it/);
    await run('virsh', ['-c', `qemu+unix:///system?socket=${bed.host.socketPath}`, 'managedsave', 'web-1']);
    await expectRefused(/^VmNotStopped: VM web-1 was stopped with its memory saved/);
    await run('virsh', ['-c', `qemu+unix:///system?socket=${bed.host.socketPath}`, 'managedsave-remove', 'web-1']);
    const snapshot = `<domainsnapshot><name>before-upgrade</name><disks>
      <disk name='vda' snapshot='external'><source file='${join(bed.dir, 'overlay-a')}'/></disk>
      <disk name='vdb' snapshot='external'><source file='${join(bed.dir, 'overlay-b')}'/></disk></disks></domainsnapshot>`;
    const xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    for (const checkpoint of await bed.host.libvirt.checkpointList(guest.dom))
      await bed.host.libvirt.checkpointDelete(guest.dom, checkpoint, { metadataOnly: true });
    await bed.host.libvirt.snapshotCreate(guest.dom, snapshot, { diskOnly: true });
    await expectRefused(/^DiskMismatch: VM web-1 has snapshots that a restore would lose: before-upgrade/);
    await bed.host.libvirt.snapshotDelete(guest.dom, 'before-upgrade', { metadataOnly: true });
    await bed.host.libvirt.define(xml);
  });

  it('in place brings every byte back, to the right disks though they changed places', async () => {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 99 0 40M', image('vda')]);
    await run('qemu-io', ['-f', 'raw', '-c', 'write -P 98 0 40M', image('vdb')]);
    const former = await stat(image('vda'));
    const xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    const swapped = rewriteDomainXml(xml, {
      disks: { vda: { path: image('vdb'), format: 'raw' }, vdb: { path: image('vda'), format: 'qcow2' } },
    });
    await bed.host.libvirt.define(swapped);
    const restored = await bed.restore(incremental.id);
    expect(restored.disks).toEqual([
      { target: 'vda', path: image('vda'), verified: true },
      { target: 'vdb', path: image('vdb'), verified: true },
    ]);
    expect(await contents()).toEqual(hashes);
    expect(Object.keys(await files())).toEqual(['web-1-vda.qcow2', 'web-1-vdb.raw']);
    expect((await stat(image('vda'))).mode).toBe(former.mode);
    await bed.host.libvirt.define(xml);
  });

  it('makes the next backup a full, because the disks are others', async () => {
    await bed.host.libvirt.create(guest.dom);
    const next = await bed.take('web-1');
    expect(kindsOf(next)).toEqual({ vda: 'full: disk-replaced', vdb: 'full: format-without-bitmaps' });
    await expectStored(bed.holdfast, next, { vda, vdb });
    await vda.write(guest, 40 * MiB, MiB, 0x15);
    const then = await bed.take('web-1');
    expect(kindsOf(then)).toMatchObject({ vda: 'incremental' });
    await expectStored(bed.holdfast, then, { vda, vdb });
    await bed.host.libvirt.destroy(guest.dom);
  });

  it('as a new VM has its own UUID, MACs and disks, which lie beside', async () => {
    const before = await files();
    const restored = await bed.restore(incremental.id, { as: 'web-1-test' });
    expect(restored.vm.name).toBe('web-1-test');
    expect(restored.vm.uuid).not.toBe(guest.uuid);
    const dom = await bed.host.libvirt.lookupByName('web-1-test');
    const definition = parseDomainXml(await bed.host.libvirt.domainXml(dom ?? guest.dom));
    expect(definition.interfaces[0]?.mac).not.toBe('52:54:00:aa:bb:01');
    const paths = Object.fromEntries(definition.disks.map(({ target, sourcePath }) => [target, sourcePath ?? '']));
    expect(Object.values(paths).map((path) => dirname(path))).toEqual([guest.dir, guest.dir]);
    expect(await sha256OfImage(paths['vda'] ?? '', 'qcow2')).toBe(hashes['vda']);
    expect(await sha256OfImage(paths['vdb'] ?? '', 'raw')).toBe(hashes['vdb']);
    expect(await files()).toMatchObject(before); // the original's are as they were
    await bed.host.libvirt.undefine(dom ?? guest.dom);
    for (const path of Object.values(paths)) await rm(path);
  });

  it('brings back UEFI variables and the state of a TPM, for the VM itself and for a new one', async () => {
    const { libvirt } = bed.host;
    const firmware = await bed.guest({
      name: 'uefi-1',
      machine: 'q35',
      disks: [{ target: 'vda', sizeBytes: MiB, format: 'qcow2', fs: 'none' }],
      extraXml: `<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>`,
    });
    const xml = await libvirt.domainXml(firmware.dom, { inactive: true });
    await libvirt.define(
      xml.replace(
        '<kernel>',
        `<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
         <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/><kernel>`,
      ),
    );
    await libvirt.create(firmware.dom);
    const state = join(bed.host.dir, 'lib'); // what the daemon calls /var/lib/libvirt
    const nvram = join(state, 'qemu', 'nvram', 'uefi-1_VARS.fd');
    const tpmOf = (uuid: string): string => join(state, 'swtpm', uuid, 'tpm2', 'tpm2-00.permall');
    const backup = await bed.take('uefi-1');
    const kept = (await manifestOf(bed.holdfast, backup)).files;
    expect(kept.map(({ kind, path }) => `${kind} ${path}`)).toEqual([
      'nvram /var/lib/libvirt/qemu/nvram/uefi-1_VARS.fd',
      `tpm /var/lib/libvirt/swtpm/${firmware.uuid}/tpm2/tpm2-00.permall`,
    ]);
    await libvirt.destroy(firmware.dom);
    await writeFile(nvram, 'lost');
    await writeFile(tpmOf(firmware.uuid), 'lost');
    await bed.restore(backup.id);
    const contentOf = (kind: string) => kept.find((file) => file.kind === kind)?.content;
    expect(await readFile(nvram, 'base64')).toBe(contentOf('nvram'));
    expect(await readFile(tpmOf(firmware.uuid), 'base64')).toBe(contentOf('tpm'));

    const copy = await bed.restore(backup.id, { as: 'uefi-2', start: true });
    expect((await libvirt.state((await libvirt.lookupByName('uefi-2')) ?? firmware.dom)).state).toBe('running');
    expect(await stat(join(dirname(nvram), 'uefi-2_VARS.fd'))).toBeDefined();
    expect(await stat(tpmOf(copy.vm.uuid))).toBeDefined();
    await libvirt.create(firmware.dom); // it starts with what came back
    for (const name of ['uefi-1', 'uefi-2']) await libvirt.destroy((await libvirt.lookupByName(name)) ?? firmware.dom);
  });

  it('that is cancelled, or whose place is too small, leaves the VM as it was', async () => {
    const before = await files();
    const running = await bed.start('restoreVm', { backupId: incremental.id });
    await until('a disk is written beside', async () => (await readdir(guest.dir)).length > 2, { everyMs: 2 });
    await running.cancel();
    const outcome = await resultOf(running).catch((error: unknown) => String(error));
    if (typeof outcome === 'string') {
      expect(outcome).toMatch(/Cancelled/);
      expect(await files()).toEqual(before);
    } else expect(await contents()).toEqual(hashes); // it was swapping already
    await expectVmClean(guest, 'web-1', {
      activeImages: { vda: image('vda'), vdb: image('vdb') },
      state: 'shutoff',
      checkpoints: await bed.host.libvirt.checkpointList(guest.dom),
    });

    const tiny = join(bed.dir, 'tiny');
    await mkdir(tiny);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', tiny]);
    try {
      const xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
      await bed.host.libvirt.define(rewriteDomainXml(xml, { disks: { vda: { path: join(tiny, 'vda.qcow2') } } }));
      await expectRefused(/^DestinationFull: .*tiny needs up to \d+ bytes .*the VM was not touched/);
      expect(await readdir(tiny)).toEqual([]);
      await bed.host.libvirt.define(xml);
    } finally {
      await run('umount', [tiny]);
    }
  });

  it('goes on when its worker is killed in the middle', async () => {
    const running = await bed.start('restoreVm', { backupId: incremental.id });
    await until('a disk is written beside', async () => (await readdir(guest.dir)).length > 2, { everyMs: 2 });
    await bed.holdfast.kill('host');
    await resultOf(running);
    expect(await contents()).toEqual(hashes);
    expect(Object.keys(await files())).toEqual(['web-1-vda.qcow2', 'web-1-vdb.raw']);
  });

  it('defines a VM anew that is gone with its disks', async () => {
    await bed.host.libvirt.undefine(guest.dom, { checkpointsMetadata: true });
    await rm(guest.dir, { recursive: true });
    const restored = await bed.restore(incremental.id, { start: true });
    expect(restored.vm).toEqual({ uuid: guest.uuid, name: 'web-1' });
    expect((await bed.host.libvirt.state(guest.dom)).state).toBe('running');
    await bed.host.libvirt.destroy(guest.dom);
    expect(await contents()).toEqual(hashes);
    const { interfaces } = parseDomainXml(await bed.host.libvirt.domainXml(guest.dom));
    expect(interfaces[0]?.mac).toBe('52:54:00:aa:bb:01');
    await bed.host.libvirt.create(guest.dom);
    const next = await bed.take('web-1');
    expect(kindsOf(next)).toMatchObject({ vda: 'full: disk-replaced' });
    await expectStored(bed.holdfast, next, {
      vda: { sha256: hashes['vda'] ?? '' },
      vdb: { sha256: hashes['vdb'] ?? '' },
    });
  });
});
