import { rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { Backup } from '../../schemas/backup.ts';
import { checkpointName } from '../../schemas/names.ts';
import { createDisk, type Guest } from '../support/guest.ts';
import { signalProcess, until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  kindsOf,
  MiB,
  PatternedDisk,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const flush = ({ libvirt, dom }: Guest, device: number) =>
  libvirt.monitorCommandHmp(dom, `qemu-io -d /machine/peripheral/virtio-disk${device}/virtio-backend flush`);

/** One VM through all that may happen to it. A full because of doubt in one disk leaves the other incremental. */
describe('a VM with two disks', () => {
  let bed: TestBed;
  let guest: Guest;
  let vda = new PatternedDisk(0, 16 * MiB);
  const vdb = new PatternedDisk(1, 16 * MiB);
  let last: Backup;
  let writes = 0;

  beforeAll(async () => {
    bed = await startTestBed('kvm-reasons');
    guest = await bed.guest({
      name: 'doubtful',
      disks: [
        { target: 'vda', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'none' },
      ],
    });
    // With one checkpoint kept: where an older one serves instead, see checkpoints.integration.test.ts.
    await bed.holdfast.json('offering', 'create', 'single', '--keep-checkpoints', '1', '--chain-size', '0');
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 2 * MiB, 0x61);
    await vdb.write(guest, 3 * MiB, MiB, 0x62);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  /** Writes to both disks, backs up, and proves what is stored. */
  async function next(request: Parameters<TestBed['take']>[1] = {}): Promise<Record<string, string>> {
    writes += 1;
    await vda.write(guest, (writes % 16) * MiB, 128 * 1024, writes);
    await vdb.write(guest, ((writes + 5) % 16) * MiB, 64 * 1024, writes);
    last = await bed.take('doubtful', { offering: 'single', ...request });
    await expectStored(bed.holdfast, last, { vda, vdb });
    return kindsOf(last);
  }
  const images = () => Object.fromEntries(guest.disks.map(({ target, path }) => [target, path]));
  const both = (kind: string) => ({ vda: kind, vdb: kind });
  const INCREMENTAL = both('incremental');

  async function restartVm(meanwhile: () => Promise<void> = async () => {}): Promise<void> {
    await bed.host.libvirt.destroy(guest.dom);
    await meanwhile();
    await bed.host.libvirt.create(guest.dom);
  }
  const expectOneCheckpoint = (): Promise<void> =>
    expectOnlyCheckpointOf(guest, last, { checkpoints: [checkpointName(last.id)] });
  const fileOf = (target: string): string =>
    bed.holdfast.blob(last.disks.find((disk) => disk.target === target)?.file ?? '');

  it('first-backup, requested, and an isolated one that leaves the chain where it is', async () => {
    expect(await next()).toEqual(both('full: first-backup'));
    expect(await next()).toEqual(INCREMENTAL);
    expect(await next({ full: true })).toEqual(both('full: requested'));
    const { id: requested } = last;
    expect(await next({ isolated: true })).toEqual(both('full: requested'));
    expect(last).toMatchObject({ isolated: true, chainId: null, parentId: null, position: null });
    expect(await next()).toEqual(INCREMENTAL);
    expect(last).toMatchObject({ parentId: requested, chainId: requested, position: 2 });
    await expectOneCheckpoint();
  });

  it('chain-size-reached', async () => {
    expect(await next({ chainSize: 3 })).toEqual(INCREMENTAL);
    expect(last).toMatchObject({ position: 3, endOfChain: true });
    await expectOnlyCheckpointOf(guest, null); // nothing will build on it
    expect(await next({ chainSize: 3 })).toEqual(both('full: chain-size-reached'));
    await expectOneCheckpoint();
  });

  it('goes on with its chain when the VM was started anew, defined anew, or libvirtd was', async () => {
    await restartVm();
    expect(await next(), 'started anew').toEqual(INCREMENTAL);

    const xml = await bed.host.libvirt.domainXml(guest.dom, { inactive: true });
    await restartVm(async () => {
      await bed.host.libvirt.undefine(guest.dom, { checkpointsMetadata: true });
      await bed.host.libvirt.define(xml);
    });
    expect(await bed.host.libvirt.checkpointList(guest.dom)).toEqual([]);
    expect(await next(), 'defined anew').toEqual(INCREMENTAL);
    await expectOneCheckpoint();

    await bed.host.restartLibvirtd();
    expect(await next(), 'libvirtd started anew').toEqual(INCREMENTAL);
    await expectOneCheckpoint();
  });

  it("leaves another tool's checkpoints alone and is not disturbed by them", async () => {
    const make = (name: string) =>
      bed.host.libvirt.checkpointCreate(guest.dom, `<domaincheckpoint><name>${name}</name></domaincheckpoint>`);
    await make('other-tool-1');
    expect(await next()).toEqual(INCREMENTAL);
    await make('other-tool-2');
    expect(await next()).toEqual(INCREMENTAL);
    const checkpoints = ['other-tool-1', 'other-tool-2', checkpointName(last.id)];
    await expectOnlyCheckpointOf(guest, last, { checkpoints });
    for (const name of ['other-tool-1', 'other-tool-2']) await bed.host.libvirt.checkpointDelete(guest.dom, name);
  });

  it('disk-added, and disk-resized', async () => {
    const path = join(guest.dir, 'doubtful-vdc.qcow2');
    await createDisk({ path, sizeBytes: 4 * MiB, format: 'qcow2', fs: 'none' });
    const xml = `<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>
      <source file='${path}'/><target dev='vdc' bus='virtio'/></disk>`;
    await bed.host.libvirt.attachDevice(guest.dom, xml, { live: true, config: true });
    const added = await bed.take('doubtful', { offering: 'single' });
    expect(kindsOf(added)).toEqual({ ...INCREMENTAL, vdc: 'full: disk-added' });
    const vdc = new PatternedDisk(2, 4 * MiB);
    await expectStored(bed.holdfast, added, { vda, vdb, vdc });
    await bed.host.libvirt.detachDevice(guest.dom, xml, { config: true });
    await restartVm();

    await bed.host.libvirt.blockResize(guest.dom, 'vda', 20 * MiB);
    vda = vda.grown(20 * MiB);
    await vda.write(guest, 17 * MiB, MiB, 0x71);
    expect(await next()).toEqual({ vda: 'full: disk-resized', vdb: 'incremental' });
    expect(await next()).toEqual(INCREMENTAL);
    await rm(path);
    await expectOneCheckpoint();
  });

  it('checkpoint-lost: its bitmap was removed behind our back, running or stopped', async () => {
    const devices = (await bed.host.libvirt.monitorCommand(guest.dom, { execute: 'query-block' })) as {
      qdev: string;
      inserted?: { 'node-name': string };
    }[];
    const node = devices.find(({ qdev }) => qdev.includes('virtio-disk0'))?.inserted?.['node-name'];
    const name = checkpointName(last.id);
    await bed.host.libvirt.monitorCommand(guest.dom, {
      execute: 'block-dirty-bitmap-remove',
      arguments: { node, name },
    });
    expect(await next()).toEqual({ vda: 'full: checkpoint-lost', vdb: 'incremental' });
    await expectOneCheckpoint();

    await restartVm(async () => {
      await run('qemu-img', ['bitmap', '--remove', images()['vdb'] ?? '', checkpointName(last.id)]);
    });
    expect(await next()).toEqual({ vda: 'incremental', vdb: 'full: checkpoint-lost' });
    await expectOneCheckpoint();
  });

  it('parent-missing and parent-damaged: its file in the repository', async () => {
    await rm(fileOf('vda'));
    expect(await next()).toEqual({ vda: 'full: parent-missing', vdb: 'incremental' });
    await truncate(fileOf('vdb'), 4096);
    expect(await next()).toEqual({ vda: 'incremental', vdb: 'full: parent-damaged' });
    await rm(bed.holdfast.blob(`${guest.uuid}/backups/${last.id}.json`));
    expect(await next()).toEqual(both('full: parent-missing'));
    await expectOneCheckpoint();
  });

  it('bitmap-inconsistent: QEMU was killed', async () => {
    await restartVm(); // a bitmap lies in the image only from its first closing on
    for (const { device } of [vda, vdb]) await flush(guest, device); // what QEMU holds back would be lost
    const daemon = bed.host.libvirtdPid();
    const [qemu] = bed.host.processes().filter((pid) => pid !== daemon);
    signalProcess(qemu ?? 0, 'SIGKILL');
    await until('the VM is off', async () => (await bed.host.libvirt.state(guest.dom)).state === 'shutoff');
    await bed.host.libvirt.create(guest.dom);
    expect(await next()).toEqual(both('full: bitmap-inconsistent'));
    expect(await next()).toEqual(INCREMENTAL);
    await expectOneCheckpoint();
  });

  it('disk-replaced: another image at the target, or two disks that changed places', async () => {
    const other = join(guest.dir, 'other.qcow2');
    await createDisk({ path: other, sizeBytes: 20 * MiB, format: 'qcow2', fs: 'none' });
    const redefine = async (disks: Record<string, { path: string }>): Promise<void> => {
      const xml = rewriteDomainXml(await bed.host.libvirt.domainXml(guest.dom, { inactive: true }), { disks });
      await bed.host.libvirt.define(xml);
    };
    await restartVm(() => redefine({ vda: { path: other } }));
    vda = new PatternedDisk(0, 20 * MiB);
    expect(await next()).toEqual({ vda: 'full: disk-replaced', vdb: 'incremental' });
    expect(await next()).toEqual(INCREMENTAL);

    // The same sizes, and bitmaps of the same name: only the places tell.
    await bed.host.libvirt.blockResize(guest.dom, 'vdb', 20 * MiB);
    const grown = vdb.grown(20 * MiB);
    const before = await bed.take('doubtful', { offering: 'single' });
    expect(kindsOf(before)).toEqual({ vda: 'incremental', vdb: 'full: disk-resized' });
    const image = images()['vdb'] ?? '';
    await restartVm(() => redefine({ vda: { path: image }, vdb: { path: other } }));
    const swapped = await bed.take('doubtful', { offering: 'single' });
    expect(kindsOf(swapped)).toEqual(both('full: disk-replaced'));
    await expectStored(bed.holdfast, swapped, { vda: grown, vdb: vda });
  });
});
