import { randomUUID } from 'node:crypto';
import { rename, truncate } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runningBitmaps } from '../../activities/host/bitmaps.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { ChainTree } from '../../operations/chain-tree.ts';
import type { Backup } from '../../schemas/backup.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { Guest } from '../support/guest.ts';
import { run } from '../support/run.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  kindsOf,
  manifestOf,
  MiB,
  PatternedDisk,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const CLUSTER = 64 * 1024;

let bed: TestBed;
beforeAll(async () => {
  bed = await startTestBed('kvm-points');
});
afterAll(async () => {
  await bed[Symbol.asyncDispose]();
});

interface Scene {
  guest: Guest;
  vda: PatternedDisk;
  vdb: PatternedDisk;
  take: (request?: Parameters<TestBed['take']>[1]) => Promise<Backup>;
  stored: (backup: Backup) => Promise<void>;
}

/** A running VM with two disks that only the test writes to. */
async function scene(name: string): Promise<Scene> {
  const guest = await bed.guest({
    name,
    disks: [
      { target: 'vda', sizeBytes: 24 * MiB, format: 'qcow2', fs: 'none' },
      { target: 'vdb', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'none' },
    ],
  });
  await bed.host.libvirt.create(guest.dom);
  const [vda, vdb] = [new PatternedDisk(0, 24 * MiB), new PatternedDisk(1, 16 * MiB)];
  await vda.write(guest, 0, 3 * MiB, 0x10);
  await vdb.write(guest, MiB, MiB, 0x11);
  return {
    guest,
    vda,
    vdb,
    take: (request) => bed.take(name, request),
    stored: (backup) => expectStored(bed.holdfast, backup, { vda, vdb }),
  };
}

interface ChainShown extends ChainTree {
  host: { name: string; answered: boolean; why?: string };
}

const INCREMENTAL = { vda: 'incremental', vdb: 'incremental' };
const fileOf = (backup: Backup, target = 'vda'): string =>
  bed.holdfast.blob(backup.disks.find((disk) => disk.target === target)!.file);
const bitmapsOf = async ({ guest }: Scene): Promise<string[]> => {
  const { disks } = parseDomainXml(await guest.libvirt.domainXml(guest.dom));
  const found = await runningBitmaps(guest.libvirt, guest.dom, disks, { signal: AbortSignal.timeout(10_000) });
  return (found.get('vda') ?? []).map(({ name }) => name).toSorted();
};

describe('a VM that keeps several checkpoints', () => {
  it('builds on the one before when the newest backup is lost, and copies all that changed since', async () => {
    const at = await scene('lost');
    const { guest, vda, vdb, take, stored } = at;
    const full = await take();
    await vda.write(guest, 4 * MiB, CLUSTER, 0x21);
    const second = await take();
    await vda.write(guest, 8 * MiB, CLUSTER, 0x31);
    await vdb.write(guest, 0, CLUSTER, 0x32);
    const third = await take();
    await expectOnlyCheckpointOf(guest, third); // that is: its own and its parent's
    expect(await bitmapsOf(at)).toEqual([second, third].map(({ id }) => checkpointName(id)).toSorted());

    await rename(fileOf(third), `${fileOf(third)}.away`);
    await vda.write(guest, 12 * MiB, CLUSTER, 0x41);
    const fourth = await take();
    expect(kindsOf(fourth)).toEqual(INCREMENTAL);
    expect(fourth).toMatchObject({ parentId: second.id, position: 3, chainId: full.id });
    expect(fourth.disks.map(({ changedBytes }) => changedBytes)).toEqual([2 * CLUSTER, CLUSTER]);
    await stored(fourth);
    expect((await manifestOf(bed.holdfast, fourth)).passedOver).toEqual([{ id: third.id, reason: 'parent-missing' }]);
    expect(await bitmapsOf(at)).toEqual([second, fourth].map(({ id }) => checkpointName(id)).toSorted());
    await expectOnlyCheckpointOf(guest, fourth);

    await using catalog = await openCatalog(`sqlite:${bed.holdfast.dataDir}/catalog.sqlite`);
    expect((await catalog.backups.find(third.id))?.damage).toContain('is missing');
    const events = await catalog.events.list({ vmUuid: guest.uuid });
    expect(events.find(({ kind }) => kind === 'parents-passed-over')).toMatchObject({
      backupId: fourth.id,
      detail: { parentId: second.id, passedOver: [{ id: third.id, reason: 'parent-missing' }] },
    });

    const fifth = await take();
    expect(fifth).toMatchObject({ parentId: fourth.id, position: 4 });
    await truncate(fileOf(fifth, 'vdb'), 1024);
    await vdb.write(guest, 2 * MiB, CLUSTER, 0x51);
    const sixth = await take();
    expect(kindsOf(sixth)).toEqual(INCREMENTAL);
    expect(sixth).toMatchObject({ parentId: fourth.id, position: 4 });
    await stored(sixth);

    // Of all that is left of the chain nothing may be lost.
    await rename(fileOf(full), `${fileOf(full)}.away`);
    const seventh = await take();
    expect(kindsOf(seventh)).toEqual({ vda: 'full: parent-missing', vdb: 'incremental' });
    await stored(seventh);
  });

  it('builds on the backup that is asked for, also on a stopped VM, and says why it cannot', async () => {
    const { guest, vda, vdb, take, stored } = await scene('since');
    const full = await take();
    await vda.write(guest, 5 * MiB, CLUSTER, 0x22);
    const second = await take();
    await vda.write(guest, 6 * MiB, CLUSTER, 0x33);
    const third = await take({ since: full.id });
    expect(third).toMatchObject({ parentId: full.id, position: 2, chainId: full.id });
    expect(third.disks[0]?.changedBytes).toBe(2 * CLUSTER);
    await stored(third);
    await stored(second).then(
      () => expect.unreachable('the second lacks what the third has'),
      () => undefined,
    );
    // The full's checkpoint went when the third came: two are kept.
    await expect(take({ since: full.id })).rejects.toThrow('ParentNotUsable');
    await expect(take({ since: randomUUID() })).rejects.toThrow('BackupNotFound');
    await expect(take({ since: third.id, full: true })).rejects.toThrow('InvalidRequest: since');
    const other = await scene('since-other');
    await expect(other.take({ since: third.id })).rejects.toThrow('it is of VM since');

    await bed.host.libvirt.destroy(guest.dom);
    await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P 0x44 ${7 * MiB} ${CLUSTER}`, guest.disks[0]!.path]);
    vda.note(7 * MiB, CLUSTER, 0x44);
    const fourth = await take();
    expect(fourth).toMatchObject({ parentId: third.id, consistency: 'stopped' });
    await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P 0x55 ${8 * MiB} ${CLUSTER}`, guest.disks[1]!.path]);
    vdb.note(8 * MiB, CLUSTER, 0x55);
    const fifth = await take({ since: third.id });
    expect(kindsOf(fifth)).toEqual(INCREMENTAL);
    expect(fifth).toMatchObject({ parentId: third.id, position: 3 });
    expect(fifth.disks.map(({ changedBytes }) => changedBytes)).toEqual([CLUSTER, CLUSTER]);
    await stored(fifth);

    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 9 * MiB, CLUSTER, 0x66);
    const sixth = await take({ since: fourth.id });
    expect(kindsOf(sixth)).toEqual(INCREMENTAL);
    await stored(sixth);
  });

  it("goes on beside another tool's checkpoints, and leaves them right", async () => {
    const at = await scene('shared');
    const { guest, vda, take, stored } = at;
    const { libvirt, dom } = guest;
    const disks = `<disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='no'/></disks>`;
    const foreign = (name: string) =>
      libvirt.checkpointCreate(dom, `<domaincheckpoint><name>${name}</name>${disks}</domaincheckpoint>`);
    await foreign('theirs-1');
    await vda.write(guest, 4 * MiB, CLUSTER, 0x21);
    const full = await take();
    await vda.write(guest, 5 * MiB, CLUSTER, 0x22);
    await foreign('theirs-2');
    const second = await take();
    await vda.write(guest, 6 * MiB, CLUSTER, 0x23);
    const third = await take();
    await vda.write(guest, 7 * MiB, CLUSTER, 0x24);
    const fourth = await take();
    for (const backup of [second, third, fourth]) expect(kindsOf(backup)).toEqual(INCREMENTAL);
    expect([second, third, fourth].map(({ parentId }) => parentId)).toEqual([full.id, second.id, third.id]);
    expect(third.disks[0]?.changedBytes).toBe(CLUSTER);
    await stored(fourth);
    await expectOnlyCheckpointOf(guest, fourth, {
      checkpoints: ['theirs-1', 'theirs-2', checkpointName(third.id), checkpointName(fourth.id)],
    });
    expect(await bitmapsOf(at)).toEqual(
      ['theirs-1', 'theirs-2', checkpointName(third.id), checkpointName(fourth.id)].toSorted(),
    );
    expect(await dirtySince(guest, 'theirs-1')).toEqual([4, 5, 6, 7].map((mib) => [mib * MiB, CLUSTER]));
    expect(await dirtySince(guest, 'theirs-2')).toEqual([6, 7].map((mib) => [mib * MiB, CLUSTER]));

    const tree = await bed.holdfast.json<ChainShown>('chain', 'show', 'shared');
    expect(tree).toMatchObject({ host: { name: 'kvm-points', answered: true }, strays: [] });
    expect(tree.others).toEqual(['theirs-1', 'theirs-2'].map((name) => ({ name, inDomain: true, inImages: ['vda'] })));
    const shown = tree.chains[0]?.backups.map(({ id, checkpoint, inDomain, inImages, children }) => [
      ...[id, checkpoint, inDomain, inImages?.join(' '), children.join(' ')],
    ]);
    expect(shown).toEqual([
      [full.id, null, false, '', second.id],
      [second.id, null, false, '', third.id],
      [third.id, 'kept', true, 'vda vdb', fourth.id],
      [fourth.id, 'current', true, 'vda vdb', ''],
    ]);
    const { stdout } = await bed.holdfast.cli('chain', 'show', 'shared');
    expect(stdout).toContain('checkpoint current (in the domain, in the image of vda vdb)');

    // Theirs go: ours still hold all since.
    await libvirt.checkpointDelete(dom, 'theirs-2');
    await vda.write(guest, 8 * MiB, CLUSTER, 0x25);
    const fifth = await take({ since: third.id });
    expect(fifth.disks[0]?.changedBytes).toBe(2 * CLUSTER);
    await stored(fifth);
  });
});

describe('a VM whose host does not answer', () => {
  it('can be shown and be taken its offering from; what is on it goes with its next backup', async () => {
    const { guest, vda, take, stored } = await scene('silent');
    await bed.holdfast.json('offering', 'create', 'lone');
    await bed.holdfast.json('offering', 'assign', 'lone', 'silent');
    const full = await take();
    await vda.write(guest, 4 * MiB, CLUSTER, 0x21);
    const second = await take();
    await bed.host.killLibvirtd();
    const shown = await bed.holdfast.json<ChainShown>('chain', 'show', 'silent');
    expect(shown.host).toMatchObject({ answered: false, why: expect.stringContaining('did not answer') as string });
    expect(shown.chains[0]?.backups.map(({ inDomain, inImages }) => ({ inDomain, inImages }))).toEqual([
      { inDomain: null, inImages: null },
      { inDomain: null, inImages: null },
    ]);
    const removed = await bed.holdfast.json<{ finishedChains: string[]; note: string }>('offering', 'remove', 'silent');
    expect(removed.finishedChains).toEqual([full.id]);
    expect(removed.note).toContain('until its next backup, or: holdfast chain finish silent');
    await bed.host.restartLibvirtd();
    expect(await bed.host.libvirt.checkpointList(guest.dom)).toHaveLength(2);
    const third = await take();
    expect(kindsOf(third)).toEqual({ vda: 'full: requested', vdb: 'full: requested' });
    expect(third.chainId).not.toBe(second.chainId);
    await stored(third);
    await expectOnlyCheckpointOf(guest, third);
  });
});

describe('a chain of size 3', () => {
  it('is F I I F I I F for manual backups of one line, whatever stands alone between', async () => {
    const { guest, vda, take } = await scene('three');
    await bed.holdfast.json('offering', 'create', 'three', '--chain-size', '3');
    await bed.holdfast.json('offering', 'assign', 'three', 'three');
    const line: Backup[] = [];
    for (let count = 0; count < 7; count += 1) {
      await vda.write(guest, count * MiB, CLUSTER, 0x71 + count);
      if (count === 4) {
        const alone = await take({ isolated: true });
        expect(alone).toMatchObject({ type: 'full', parentId: null, chainId: null, position: null });
      }
      line.push(await take(count % 2 === 0 ? {} : { requestedBy: 'schedule:nightly' }));
    }
    expect(line.map(({ type }) => (type === 'full' ? 'F' : 'I')).join(' ')).toBe('F I I F I I F');
    expect(line.map(({ position }) => position)).toEqual([1, 2, 3, 1, 2, 3, 1]);
    const parents = line.map(({ parentId }) => line.findIndex(({ id }) => id === parentId));
    expect(parents).toEqual([-1, 0, 1, -1, 3, 4, -1]);
    expect(line[3]?.disks[0]?.fullReason).toBe('chain-size-reached');

    // A change acts from the next backup on.
    await bed.holdfast.json('offering', 'update', 'three', '--chain-size', '5');
    expect(await take()).toMatchObject({ type: 'incremental', position: 2 });
    expect(await take()).toMatchObject({ type: 'incremental', position: 3 });
    await bed.holdfast.json('offering', 'update', 'three', '--chain-size', '2');
    const ended = await take();
    expect(kindsOf(ended)).toEqual({ vda: 'full: chain-size-reached', vdb: 'full: chain-size-reached' });
    const removed = await bed.holdfast.json<{ finishedChains: string[]; note: string | null }>(
      ...['offering', 'remove', 'three'],
    );
    expect(removed).toMatchObject({ finishedChains: [ended.id], note: null });
    await expectOnlyCheckpointOf(guest, null);
    const again = await bed.holdfast.cli('chain', 'finish', 'three', '--json');
    expect(JSON.parse(again.stderr)).toMatchObject({ error: { type: 'NotProtected' } });
    await bed.holdfast.json('offering', 'assign', 'three', 'three');
    const none = await bed.holdfast.cli('chain', 'finish', 'three', '--json');
    expect(none.exitCode).toBe(1);
    expect(JSON.parse(none.stderr)).toMatchObject({ error: { type: 'NothingToFinish' } });
    expect(await take()).toMatchObject({ type: 'full' });
  });
});

/** What QEMU has noted of `vda` since another tool's checkpoint, as [offset, length], by a pull backup of its own. */
async function dirtySince({ libvirt, dom }: Guest, checkpoint: string): Promise<number[][]> {
  const folder = `${bed.dir}/theirs-${randomUUID().slice(0, 8)}`;
  await run('install', ['-d', '-m', '777', folder]);
  await libvirt.backupBegin(
    dom,
    `<domainbackup mode='pull'><incremental>${checkpoint}</incremental>
      <server transport='unix' socket='${folder}/nbd'/>
      <disks><disk name='vda' backup='yes' type='file' exportname='vda' exportbitmap='dirty'>
        <scratch file='${folder}/scratch'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>`,
  );
  try {
    const options = `driver=nbd,server.type=unix,server.path=${folder}/nbd,export=vda,x-dirty-bitmap=qemu:dirty-bitmap:dirty`;
    const { stdout } = await run('qemu-img', ['map', '--output=json', '--image-opts', options]);
    const map = JSON.parse(stdout.toString()) as { start: number; length: number; data: boolean; present: boolean }[];
    return map.filter(({ data }) => !data).map(({ start, length }) => [start, length]); // not "data" = dirty
  } finally {
    await libvirt.abortJob(dom);
  }
}
