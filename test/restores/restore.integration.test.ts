import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { WorkflowHandle } from '@temporalio/client';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { newDiskXml } from '../../libvirt/disk-xml.ts';
import type { RestorePreview } from '../../schemas/restore-plan.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { createDisk, type Guest } from '../support/guest.ts';
import { signalProcess, until } from '../support/processes.ts';
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

  const vmState = async (): Promise<string> =>
    (await bed.holdfast.json<{ state: string }>('vm', 'show', 'web-1')).state;
  const admitted = async (): Promise<string[]> => {
    await using catalog = await openCatalog(`sqlite:${join(bed.holdfast.dataDir, 'catalog.sqlite')}`);
    const leases = await catalog.admissions.list();
    return leases.filter(({ state }) => state === 'granted').map(({ operationId }) => operationId);
  };

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
    const refusalsOf = async (...flags: string[]): Promise<string[]> =>
      (await bed.holdfast.json<RestorePreview>('restore', incremental.id, '--dry-run', ...flags)).refused;
    expect(await refusalsOf('--as', 'web-1-copy')).toEqual([]); // a new VM loses nobody's snapshots
    await bed.host.libvirt.snapshotDelete(guest.dom, 'before-upgrade', { metadataOnly: true });
    await bed.host.libvirt.define(xml);
    await bed.host.libvirt.define(rewriteDomainXml(xml, { removeDisks: ['vdb'] })); // raw, it can hold none
    await bed.host.libvirt.snapshotCreate(guest.dom, '<domainsnapshot><name>inside</name></domainsnapshot>');
    expect(await refusalsOf()).toEqual([expect.stringMatching(/has snapshots that a restore would lose: inside/)]);
    await bed.host.libvirt.snapshotDelete(guest.dom, 'inside');
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

    const notes = join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'restores');
    await mkdir(notes, { recursive: true });
    await run('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', notes]);
    try {
      await expect(writeFile(join(notes, 'ballast'), Buffer.alloc(MiB))).rejects.toThrow('ENOSPC');
      await expectRefused(/^HostFull: VM web-1: no space is left on host/);
      expect(await readdir(notes)).toEqual(['ballast']);
    } finally {
      await run('umount', [notes]);
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

  describe('of a VM whose disks are not those of the backup', () => {
    const extra = (): string => join(guest.dir, 'extra.qcow2');
    const definition = async () =>
      parseDomainXml(await bed.host.libvirt.domainXml(guest.dom, { inactive: true, secure: true }));
    let xml: string;
    beforeAll(async () => {
      xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true, secure: true });
      await createDisk({ path: extra(), sizeBytes: MiB, format: 'qcow2', fs: 'none' });
      await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 7 0 64k', extra()]);
    });
    afterAll(async () => {
      await bed.host.libvirt.define(xml);
      await rm(extra(), { force: true });
    });
    const addExtra = async (target: string): Promise<void> => {
      const disk = newDiskXml({
        ...{ path: extra(), format: 'qcow2', target, bus: 'virtio', serial: 'EXTRA', wwn: null },
      });
      await bed.host.libvirt.attachDevice(guest.dom, disk, { config: true });
    };
    const lose = async (target: string): Promise<void> => {
      const present = await bed.host.libvirt.domainXml(guest.dom, { inactive: true, secure: true });
      await bed.host.libvirt.define(rewriteDomainXml(present, { removeDisks: [target] }));
    };

    it('makes anew what is gone, where it was, and leaves alone what the backup does not know', async () => {
      await lose('vdb');
      await rm(image('vdb'));
      await addExtra('vdc');
      const before = await stat(extra());
      const tried = await bed.holdfast.json<RestorePreview>('restore', incremental.id, '--dry-run');
      expect(tried).toMatchObject({ dryRun: true, isNew: false, refused: [], warnings: [] });
      expect(tried.disks.map(({ target, action, path }) => [target, action, path])).toEqual([
        ['vda', 'replaced', image('vda')],
        ['vdb', 'created and added', image('vdb')],
      ]);
      expect(tried.untouched).toEqual([{ target: 'vdc', path: extra() }]);
      expect(await readdir(guest.dir)).toHaveLength(2); // nothing came of the dry run

      const restored = await bed.restore(incremental.id);
      expect(restored.warnings).toBeUndefined();
      expect(await contents()).toEqual(hashes);
      const { disks } = await definition();
      const addressOf = (of: string, target: string): string =>
        new RegExp(`<target dev=.${target}.*?(<address[^>]*>)`, 's').exec(of)?.[1] ?? `no ${target}`;
      expect(disks.map(({ target, sourcePath, format }) => [target, sourcePath, format])).toEqual([
        ['vda', image('vda'), 'qcow2'],
        ['vdb', image('vdb'), 'raw'],
        ['vdc', extra(), 'qcow2'],
      ]);
      const now = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
      expect(addressOf(now, 'vda')).toBe(addressOf(xml, 'vda'));
      const after = await stat(extra());
      expect([after.ino, after.size, after.mtimeMs]).toEqual([before.ino, before.size, before.mtimeMs]);
      await bed.host.libvirt.create(guest.dom); // QEMU takes it as it is
      await bed.host.libvirt.destroy(guest.dom);
    });

    it('goes beside, and to the next target, where another disk and another file took the places', async () => {
      await bed.host.libvirt.define(xml);
      await lose('vdb');
      await addExtra('vdb');
      await writeFile(image('vdb'), 'of somebody else');
      const restored = await bed.restore(incremental.id);
      const path = join(guest.dir, `web-1-vdb-${incremental.id.slice(0, 8)}.img`);
      expect(restored.disks).toEqual([
        { target: 'vda', path: image('vda'), verified: true },
        { target: 'vdc', path, verified: true },
      ]);
      expect(restored.warnings).toHaveLength(2);
      expect(await readFile(image('vdb'), 'utf8')).toBe('of somebody else');
      expect(await sha256OfImage(path, 'raw')).toBe(hashes['vdb']);
      expect((await definition()).disks.map(({ target }) => target)).toEqual(['vda', 'vdb', 'vdc']);
      await rm(path);
      await rm(image('vdb'));
    });

    it('takes everything back when libvirt does not take the disk: former disks, definition, states', async () => {
      await bed.host.libvirt.define(xml);
      await lose('vdb');
      await addExtra('vdc');
      const before = await files();
      const defined = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
      const odd = async (path: string): Promise<void> => {
        const content = await readFile(path, 'utf8');
        const target = `<target dev='vdb' bus='virtio'/>`;
        expect(content).toContain(target);
        await writeFile(path, content.replaceAll(target, `${target}<wwn>no such name</wwn>`));
      };
      await altered(`${guest.uuid}/backups/${incremental.id}.json`, odd, () =>
        expectRefused(/^DiskNotAttachable: libvirt on kvm-restore does not add disk/),
      );
      expect(await files()).toEqual(before);
      expect(await bed.host.libvirt.domainXml(guest.dom, { inactive: true })).toBe(defined);
      expect(await vmState()).toBe('Idle');
    });

    it('restores one disk alone', async () => {
      await bed.restore(incremental.id); // vdb is there again
      await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 97 0 8M', image('vda')]);
      await run('qemu-io', ['-f', 'raw', '-c', 'write -P 96 0 8M', image('vdb')]);
      const vdbNow = await sha256OfImage(image('vdb'), 'raw');
      const restored = await bed.holdfast.restore(incremental.id, '--disk', 'vda');
      expect(restored.disks.map(({ target }) => target)).toEqual(['vda']);
      expect(await contents()).toEqual({ vda: hashes['vda'], vdb: vdbNow });
      await expect(bed.restore(incremental.id, { disks: ['vdx'] })).rejects.toThrow(
        /^DiskMismatch: backup .* has no disk vdx; it has vda, vdb/,
      );
      await bed.restore(incremental.id);
      expect(await contents()).toEqual(hashes);
    });
  });

  it('keeps UUID and MACs of the original when it may', async () => {
    const { libvirt } = bed.host;
    await expect(bed.restore(incremental.id, { as: 'web-1-b', keepUuid: true })).rejects.toThrow(
      /^VmUuidTaken: VM web-1 on host kvm-restore has the UUID/,
    );
    await expect(bed.restore(incremental.id, { keepMacs: true })).rejects.toThrow(
      /^InvalidRequest: keepMacs: goes with a new name/,
    );
    const copy = await bed.restore(incremental.id, { as: 'web-1-b', keepMacs: true, linksDown: true });
    const dom = await libvirt.lookupByName('web-1-b');
    const { interfaces } = parseDomainXml(await libvirt.domainXml(dom ?? guest.dom));
    expect(interfaces.map(({ mac, linkDown }) => [mac, linkDown])).toEqual([['52:54:00:aa:bb:01', true]]);
    await libvirt.undefine(dom ?? guest.dom);
    for (const { path } of copy.disks) await rm(path);
  });

  it('shows as Restoring as long as one of several restores of a backup goes on', async () => {
    const stateOf = async (): Promise<string> =>
      (await bed.holdfast.json<Backup>('backup', 'show', incremental.id)).state;
    expect(await stateOf()).toBe('BackedUp');
    const worker = bed.holdfast.processes()['host'] ?? 0;
    signalProcess(worker, 'SIGSTOP'); // all of them are admitted, and none comes to an end
    try {
      const copies = await Promise.all(
        ['web-1-c', 'web-1-d'].map((as) => bed.start('restoreVm', { backupId: incremental.id, as })),
      );
      await until('both are admitted', async () => (await admitted()).length === 2);
      expect(await stateOf()).toBe('Restoring');
      await copies[0]?.terminate('ended by force');
      signalProcess(worker, 'SIGCONT');
      const restored = await resultOf<RestoredVm>(copies[1] as WorkflowHandle);
      expect(await sha256OfImage(restored.disks[0]?.path ?? '', 'qcow2')).toBe(hashes['vda']);
      await bed.holdfast.json('reclaim', '--grace', '0');
      expect(await stateOf()).toBe('BackedUp');
      const dom = await bed.host.libvirt.lookupByName('web-1-d');
      await bed.host.libvirt.undefine(dom ?? guest.dom);
      for (const { path } of restored.disks) await rm(path);
      expect(Object.keys(await files())).toEqual(['web-1-vda.qcow2', 'web-1-vdb.raw']);
    } finally {
      signalProcess(worker, 'SIGCONT');
    }
  });

  it('does not mix with another one of the same backup: in place beside a new VM, and two of one name', async () => {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 94 0 40M', image('vda')]);
    const outcomes = await Promise.allSettled([
      bed.restore(incremental.id),
      bed.restore(incremental.id, { as: 'web-1-e' }),
      bed.restore(incremental.id, { as: 'web-1-e' }),
    ]);
    expect(await contents()).toEqual(hashes);
    expect(outcomes[0].status).toBe('fulfilled');
    const copies = outcomes.slice(1).flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    const refusals = outcomes.flatMap((one) => (one.status === 'rejected' ? [String(one.reason)] : []));
    expect(copies).toHaveLength(1);
    expect(refusals).toEqual([expect.stringMatching(/VmNameTaken|DestinationExists/)]);
    const dom = await bed.host.libvirt.lookupByName('web-1-e');
    expect(dom?.uuid).toBe(copies[0]?.vm.uuid);
    const [vdaOfCopy, vdbOfCopy] = copies[0]?.disks.map(({ path }) => path) ?? [];
    expect(await sha256OfImage(vdaOfCopy ?? '', 'qcow2')).toBe(hashes['vda']);
    expect(await sha256OfImage(vdbOfCopy ?? '', 'raw')).toBe(hashes['vdb']);
    await bed.host.libvirt.undefine(dom ?? guest.dom);
    for (const { path } of copies[0]?.disks ?? []) await rm(path);
    expect(Object.keys(await files())).toEqual(['web-1-vda.qcow2', 'web-1-vdb.raw']);
    expect(await vmState()).toBe('Idle');
    expect(await admitted()).toEqual([]);
  });

  it('that was ended by force is undone by reclaim: disks, notes, states', async () => {
    const before = await files();
    const running = await bed.start('restoreVm', { backupId: incremental.id });
    await until('a disk is written beside', async () => (await readdir(guest.dir)).length > 2, { everyMs: 2 });
    const worker = bed.holdfast.processes()['host'] ?? 0;
    signalProcess(worker, 'SIGSTOP');
    try {
      await running.terminate('ended by force');
      expect(await vmState()).toBe('Restoring');
    } finally {
      signalProcess(worker, 'SIGCONT');
    }
    const { problems } = await bed.holdfast.json<{ problems: string[] }>('reclaim');
    expect(problems).toEqual([]);
    expect(await vmState()).toBe('Idle');
    expect(await admitted()).toEqual([]);
    if ((await contents()).vda !== hashes['vda']) throw new Error('a disk is neither the former nor the restored one');
    expect(Object.keys(await files())).toEqual(Object.keys(before));
  });

  it('comes from a backup that is hidden, isolated, or of a stopped VM', async () => {
    await bed.host.libvirt.create(guest.dom);
    const base = await bed.take('web-1');
    await vda.write(guest, 20 * MiB, MiB, 0x31);
    const child = await bed.take('web-1');
    const isolated = await bed.take('web-1', { isolated: true });
    await bed.host.libvirt.destroy(guest.dom);
    const then = await contents();
    const stopped = await bed.take('web-1');
    await bed.holdfast.json('backup', 'delete', base.id); // hidden: `child` is built on it
    for (const backup of [child, isolated, stopped]) {
      await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 95 0 40M', image('vda')]);
      await bed.restore(backup.id);
      expect(await contents()).toEqual(then);
    }
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
