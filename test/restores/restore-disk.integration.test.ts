import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDomainXml, type DomainDisk } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { RestoreDiskRequest } from '../../schemas/requests.ts';
import type { PreparedDisk } from '../../schemas/restore-plan.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { createGuest, guestSha256, guestShell, startGuest, type Guest } from '../support/guest.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { endProcess, until } from '../support/processes.ts';
import { kindsOf, MiB, PatternedDisk, resultOf, startTestBed, type TestBed } from '../support/test-bed.ts';

const HOLDFAST = join(import.meta.dirname, '..', '..', 'bin', 'holdfast');

describe('with two hosts', () => {
  let bed: TestBed;
  let other: KvmHost;
  let workerPid: number | undefined;
  let source: Guest;
  let backup: Backup;
  const vda = new PatternedDisk(0, 24 * MiB);
  const vdb = new PatternedDisk(1, 16 * MiB);
  let hashes: Record<'vda' | 'vdb', string>;

  beforeAll(async () => {
    bed = await startTestBed('kvm-disk');
    other = await startKvmHost({ name: 'kvm-else', dir: join(bed.dir, 'o') });
    const worker = spawn(HOLDFAST, ['worker', 'host', '--host', 'kvm-else', '--libvirt', other.socketPath], {
      env: { ...process.env, HOLDFAST_DATA: bed.holdfast.dataDir },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    workerPid = worker.pid;
    await Promise.race([once(worker.stdout, 'data'), once(worker.stderr, 'data')]);
    source = await bed.guest({
      name: 'web-1',
      disks: [
        { target: 'vda', sizeBytes: 24 * MiB, format: 'qcow2', fs: 'none', serial: 'ROOT-1' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'raw', fs: 'none' },
      ],
      extraXml: `<interface type='user'><mac address='52:54:00:aa:bb:02'/></interface>`,
    });
    await bed.host.libvirt.create(source.dom);
    await vda.write(source, 0, 8 * MiB, 0x21);
    await vdb.write(source, MiB, MiB, 0x22);
    await bed.take('web-1');
    await vda.write(source, 4 * MiB, MiB, 0x23);
    backup = await bed.take('web-1');
    hashes = { vda: vda.sha256, vdb: vdb.sha256 };
    await vda.write(source, 0, MiB, 0x24); // what no restore may bring
  });
  afterAll(async () => {
    if (workerPid !== undefined) await endProcess(workerPid, 30_000);
    await other[Symbol.asyncDispose]();
    await bed[Symbol.asyncDispose]();
  });

  const restoreDisk = async (request: Omit<RestoreDiskRequest, 'backupId'>): Promise<RestoredVm> =>
    await resultOf(await bed.start('restoreDisk', { backupId: backup.id, ...request }));

  describe('one disk of a backup, given to a VM', () => {
    let target: Guest;
    beforeAll(async () => {
      target = await bed.guest({
        name: 'web-2',
        disks: [{ target: 'vda', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'ext4', serial: 'ROOT-1' }],
      });
      await startGuest(target);
    });
    const fileName = (disk: string, ext: string): string => `web-1-${disk}-${backup.id.slice(0, 8)}.${ext}`;
    const diskAt = async (name: string): Promise<{ live: DomainDisk; config: DomainDisk }> => {
      const find = async (inactive: boolean): Promise<DomainDisk> => {
        const { disks } = parseDomainXml(await target.libvirt.domainXml(target.dom, { inactive }));
        const found = disks.find((disk) => disk.target === name);
        if (found === undefined) throw new Error(`web-2 has no disk ${name}`);
        return found;
      };
      return { live: await find(false), config: await find(true) };
    };

    it('comes up in a running VM, with every byte, in its format, under a serial number of its own', async () => {
      const tried = await bed.holdfast.json<PreparedDisk>(
        ...(['restore', backup.id, '--disk', 'vda', '--to-vm', 'web-2', '--dry-run'] as const),
      );
      const path = join(target.dir, fileName('vda', 'qcow2'));
      expect(tried).toMatchObject({ target: 'vdb', bus: 'virtio', disk: { path } });
      expect(await readdir(target.dir)).toHaveLength(1);
      const restored = await bed.holdfast.json<RestoredVm>('restore', backup.id, '--disk', 'vda', '--to-vm', 'web-2');
      expect(restored).toEqual({
        vm: { uuid: target.uuid, name: 'web-2' },
        disks: [{ target: 'vdb', path, verified: true }],
      });
      const { live, config } = await diskAt('vdb');
      for (const disk of [live, config]) {
        expect(disk).toMatchObject({ sourcePath: path, format: 'qcow2', bus: 'virtio' });
        expect(disk.serial).toBe(`hf-${backup.id.slice(0, 8)}-vda`);
      }
      await until('the guest sees it', async () => (await guestShell(target, 'ls /sys/block')).includes('vdb'));
      expect((await guestShell(target, 'cat /sys/block/vdb/serial')).trim()).toBe(live.serial);
      expect(await guestSha256(target, '/dev/vdb')).toBe(hashes.vda);
      await expectVmClean(target, 'web-2', { activeImages: { vda: target.disks[0]?.path ?? '', vdb: path } });
      // The VM's own next backup has it.
      expect(kindsOf(await bed.take('web-2'))).toEqual({ vda: 'full: first-backup', vdb: 'full: first-backup' });
    });

    it('comes a second time, raw, at the target that is asked for', async () => {
      await restoreDisk({ disk: 'vda', toVm: target.uuid });
      expect((await diskAt('vdc')).live.sourcePath).toBe(
        join(target.dir, `web-1-vda-${backup.id.slice(0, 8)}-2.qcow2`),
      );
      const path = join(bed.dir, 'elsewhere.img');
      const restored = await restoreDisk({ disk: 'vdb', toVm: 'web-2', target: 'vdh', path });
      expect(restored.disks).toEqual([{ target: 'vdh', path, verified: true }]);
      const { live, config } = await diskAt('vdh');
      expect([live.format, config.format]).toEqual(['raw', 'raw']);
      await until('the guest sees it', async () => (await guestShell(target, 'ls /sys/block')).includes('vdd'));
      expect(await guestSha256(target, '/dev/vdd')).toBe(hashes.vdb);
    });

    it('is refused, and leaves nothing, without a VM, a disk, a target or a place for it', async () => {
      const before = await readdir(target.dir);
      const definition = await target.libvirt.domainXml(target.dom, { inactive: true });
      const taken = join(bed.dir, 'taken');
      await writeFile(taken, 'of somebody else');
      for (const [request, message] of [
        [{ disk: 'vda', toVm: 'nobody' }, /^VmNotFound: VM nobody is on none of the hosts/],
        [{ disk: 'vdx', toVm: 'web-2' }, /^DiskMismatch: backup .* has no disk vdx; it has vda, vdb/],
        [{ disk: 'vda', toVm: 'web-2', target: 'vda' }, /^DiskNotAttachable: VM web-2 has a disk vda already/],
        [{ disk: 'vda', toVm: 'web-2', target: 'sdx' }, /^DiskNotAttachable: a disk on virtio is called vd/],
        [{ disk: 'vda', toVm: 'web-2', path: taken }, /^DestinationExists: .*taken exists; name another path/],
        [{ disk: 'vda', toVm: 'web-2', path: '/dev/holdfast-test' }, /^InvalidRequest: path: \/dev\/holdfast-test/],
        [{ disk: 'vda', toVm: 'web-2', path: '../x' }, /^InvalidRequest: .*path: must be an absolute path/],
      ] as const) {
        await expect(restoreDisk(request)).rejects.toThrow(message);
      }
      expect(await readdir(target.dir)).toEqual(before);
      expect(await target.libvirt.domainXml(target.dom, { inactive: true })).toBe(definition);
    });

    it('leaves nothing when it is cancelled, and comes to its end when its worker is killed', async () => {
      const before = await readdir(target.dir);
      const begin = async () => {
        const running = await bed.start('restoreDisk', { backupId: backup.id, disk: 'vda', toVm: 'web-2' });
        await until('it is written', async () => (await readdir(target.dir)).length > before.length, { everyMs: 2 });
        return running;
      };
      const cancelled = await begin();
      await cancelled.cancel();
      const outcome = await resultOf<RestoredVm>(cancelled).catch((error: unknown) => String(error));
      if (typeof outcome === 'string') {
        expect(outcome).toMatch(/Cancelled/);
        expect(await readdir(target.dir)).toEqual(before);
      } else before.push(...(await readdir(target.dir)).filter((name) => !before.includes(name))); // it was attaching
      const killed = await begin();
      await bed.holdfast.kill('host');
      const { disks } = await resultOf<RestoredVm>(killed);
      expect(await readdir(target.dir)).toHaveLength(before.length + 1);
      expect((await diskAt(disks[0]?.target ?? '')).live.sourcePath).toBe(disks[0]?.path);
      await expectVmClean(target, 'web-2', {
        activeImages: Object.fromEntries(
          parseDomainXml(await target.libvirt.domainXml(target.dom)).disks.map((disk) => [
            disk.target,
            disk.sourcePath ?? '',
          ]),
        ),
        checkpoints: await target.libvirt.checkpointList(target.dom),
        otherFiles: [/./],
      });
    });

    it('becomes part of the definition of a VM that is stopped', async () => {
      const stopped = await bed.guest({
        name: 'web-3',
        disks: [{ target: 'vda', sizeBytes: MiB, format: 'qcow2', fs: 'none' }],
      });
      const { disks } = await restoreDisk({ disk: 'vda', toVm: 'web-3' });
      const path = join(stopped.dir, fileName('vda', 'qcow2'));
      expect(disks).toEqual([{ target: 'vdb', path, verified: true }]);
      const definition = parseDomainXml(await stopped.libvirt.domainXml(stopped.dom, { inactive: true }));
      expect(definition.disks[1]).toMatchObject({ sourcePath: path, serial: 'ROOT-1', format: 'qcow2' });
      expect(await sha256OfImage(path, 'qcow2')).toBe(hashes.vda);
      await stopped.libvirt.create(stopped.dom);
      await stopped.libvirt.destroy(stopped.dom);
    });

    it('goes to a VM on another host, unless that does not see the repository', async () => {
      const there = await createGuest(other, {
        name: 'web-4',
        dir: join(bed.dir, 'vm', 'web-4'),
        disks: [{ target: 'vda', sizeBytes: MiB, format: 'qcow2', fs: 'none' }],
      });
      const hidden = `${bed.holdfast.repositoryDir}.hidden`;
      await rename(bed.holdfast.repositoryDir, hidden);
      try {
        await expect(restoreDisk({ disk: 'vdb', toVm: 'web-4' })).rejects.toThrow(
          /^RepositoryNotOnHost: host kvm-else does not see repository .* mount it there/,
        );
      } finally {
        await rename(hidden, bed.holdfast.repositoryDir);
      }
      const { disks } = await restoreDisk({ disk: 'vdb', toVm: 'web-4' });
      expect(await sha256OfImage(join(there.dir, fileName('vdb', 'img')), 'raw')).toBe(hashes.vdb);
      expect(disks[0]?.target).toBe('vdb');
    });
  });

  describe('a VM', () => {
    it('is not restored to another host while its former one has it, but comes as a new one', async () => {
      await expect(bed.restore(backup.id, { host: 'kvm-else' })).rejects.toThrow(
        /^VmOnOtherHost: VM web-1 is on host kvm-disk \(running\), not on kvm-else: undefine it there first/,
      );
      const copy = await bed.restore(backup.id, { host: 'kvm-else', as: 'web-1-else', keepMacs: true });
      expect(copy.warnings).toEqual(['VM web-1 is running on host kvm-disk with the same MAC addresses']);
      const dom = await other.libvirt.lookupByName('web-1-else');
      expect(dom?.uuid).toBe(copy.vm.uuid);
      expect(await sha256OfImage(copy.disks[0]?.path ?? '', 'qcow2')).toBe(hashes.vda);
      if (dom !== undefined) await other.libvirt.undefine(dom);
      for (const { path } of copy.disks) await rm(path);
    });

    it('goes to another host when it is gone from its own, and its backups go on there', async () => {
      await bed.host.libvirt.destroy(source.dom);
      await expect(bed.restore(backup.id, { host: 'kvm-else' })).rejects.toThrow(/^VmOnOtherHost: .*\(shutoff\)/);
      await bed.host.libvirt.undefine(source.dom, { checkpointsMetadata: true });
      await expect(bed.restore(backup.id, { host: 'kvm-else' })).rejects.toThrow(/^DestinationExists: /);
      const path = source.disks[0]?.path ?? '';
      for (const disk of source.disks) await rm(disk.path); // they lie on storage that both hosts see
      await rm(dirname(path), { recursive: true });
      const restored = await bed.restore(backup.id, { host: 'kvm-else', start: true });
      expect(restored.vm).toEqual({ uuid: source.uuid, name: 'web-1' });
      expect(await bed.host.libvirt.lookupByName('web-1')).toBeUndefined();
      const dom = await other.libvirt.lookupByUuid(source.uuid);
      expect(dom === undefined ? 'gone' : (await other.libvirt.state(dom)).state).toBe('running');
      const next = await bed.take('web-1');
      expect(next).toMatchObject({ host: 'kvm-else', type: 'full' });
      expect(await sha256OfImage(bed.holdfast.blob(next.disks[0]?.file ?? ''), 'qcow2')).toBe(hashes.vda);
      if (dom !== undefined) await other.libvirt.destroy(dom);
    });

    it('keeps its UUID under a new name when no host has it any more', async () => {
      const dom = await other.libvirt.lookupByUuid(source.uuid);
      if (dom !== undefined) await other.libvirt.undefine(dom, { checkpointsMetadata: true });
      const renamed = await bed.restore(backup.id, { as: 'web-1-renamed', keepUuid: true });
      expect(renamed.vm).toEqual({ uuid: source.uuid, name: 'web-1-renamed' });
      expect((await bed.host.libvirt.lookupByName('web-1-renamed'))?.uuid).toBe(source.uuid);
      expect(await sha256OfImage(renamed.disks[0]?.path ?? '', 'qcow2')).toBe(hashes.vda);
    });

    it('comes back on another host when its own is lost for good', async () => {
      const lost = await bed.take('web-4');
      expect(lost.host).toBe('kvm-else');
      if (workerPid !== undefined) await endProcess(workerPid, 30_000); // from here on it does not answer
      workerPid = undefined;
      await rm(join(bed.dir, 'vm', 'web-4'), { recursive: true });
      const restored = await bed.restore(lost.id, { host: 'kvm-disk', formerHostLost: true, start: true });
      expect(restored.vm.name).toBe('web-4');
      const next = await bed.take('web-4');
      expect(next).toMatchObject({ host: 'kvm-disk', vm: restored.vm });
    });
  });
});
