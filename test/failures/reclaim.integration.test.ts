import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sumsKey, validationKey } from '../../repository/layout.ts';
import type { Backup } from '../../schemas/backup.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { ReclaimedOrphans } from '../../workflows/reclaim-orphans.ts';
import { startScene, type Scene } from './scene.ts';

describe('reclaim', () => {
  let scene: Scene;
  let full: Backup;
  beforeAll(async () => {
    scene = await startScene();
    full = await scene.take();
  });
  afterAll(async () => {
    await scene[Symbol.asyncDispose]();
  });

  const reclaim = (...flags: string[]) => scene.holdfast.json<ReclaimedOrphans>('reclaim', ...flags);
  const blob = (key: string) => scene.holdfast.blob(key);
  const fileIn = async (key: string, content = 'left over'): Promise<string> => {
    await mkdir(dirname(blob(key)), { recursive: true });
    await writeFile(blob(key), content);
    return key;
  };
  /** What a writer, a validation and a delete that were killed leave behind. */
  async function leaveFiles(): Promise<{ upload: string; lost: string; sums: string; png: string }> {
    const folder = `${scene.guest.uuid}/disk-0`;
    const upload = await fileIn(`${folder}/incr-20200101-000000.qcow2`, 'half of it');
    await writeFile(blob(`${folder}/.upload-incr-20200101-000000.qcow2`), randomUUID());
    const lost = await fileIn(`${folder}/full-20200101-000000.qcow2`);
    const png = await fileIn(validationKey(scene.guest.uuid, randomUUID()));
    return { upload, lost, sums: await fileIn(sumsKey(lost)), png };
  }
  const present = (files: string[]): string[] => files.filter((key) => existsSync(blob(key)));

  it('lists files that no manifest names, with their sizes, and removes them after the grace time', async () => {
    const left = await leaveFiles();
    const all = Object.values(left);
    const told = await reclaim('--dry-run', '--grace', '0');
    expect(told.problems).toEqual([]);
    expect(told.found).toHaveLength(4);
    for (const key of all) expect(told.found.join('\n')).toContain(key);
    expect(told.found.join('\n')).toMatch(
      /incr-20200101-000000.qcow2, 10 bytes, \d+ s old: an upload that nobody goes on with/,
    );
    expect(told.found.join('\n')).toMatch(/full-20200101-000000.qcow2, 9 bytes, \d+ s old: no manifest names it/);
    expect(await reclaim()).toMatchObject({ found: [], problems: [] });
    expect(await reclaim('--quick', '--grace', '0')).toMatchObject({ found: [], problems: [] });
    expect(present(all)).toEqual(all);
    await utimes(blob(left.lost), 1_600_000_000, 1_600_000_000);
    expect((await reclaim()).found).toHaveLength(1);
    expect(present(all)).toEqual([left.upload, left.sums, left.png]);
    expect((await reclaim('--grace', '0')).found).toHaveLength(3);
    await scene.expectNothingLeft();
  });

  it("leaves alone what is another installation's, or nobody's of ours", async () => {
    const stranger = randomUUID();
    const others = [
      await fileIn(`${stranger}/disk-0/full-20200101-000000.qcow2`),
      await fileIn(`${scene.guest.uuid}/notes.txt`),
      await fileIn(`${scene.guest.uuid}/disk-0/exported.qcow2`),
      await fileIn('lost+found.txt'),
    ];
    const known = await scene.manifest(full);
    const unlisted = randomUUID();
    const disks = known.disks.map((disk) => {
      const file = disk.file.replace('full-', 'full-19');
      return { ...disk, file, sums: { ...disk.sums, file: sumsKey(file) } };
    });
    for (const { file, sums } of disks) others.push(await fileIn(file), await fileIn(sums.file));
    others.push(
      await fileIn(`${scene.guest.uuid}/backups/${unlisted}.json`, JSON.stringify({ ...known, id: unlisted, disks })),
    );
    expect(await reclaim('--grace', '0')).toMatchObject({ found: [], problems: [] });
    expect(present(others)).toEqual(others);
    for (const key of others) await rm(blob(key));
    await rm(blob(stranger), { recursive: true });
    await scene.expectNothingLeft();
  });

  it('keeps the files of a backup whose manifest is gone, as long as the catalog knows it', async () => {
    const manifest = blob(`${scene.guest.uuid}/backups/${full.id}.json`);
    const content = await readFile(manifest);
    await rm(manifest);
    expect(await reclaim('--grace', '0')).toMatchObject({ found: [], problems: [] });
    await writeFile(manifest, content);
    await scene.expectNothingLeft();
  });

  describe('removes nothing on partial knowledge', () => {
    it.each([
      [
        'a manifest cannot be read',
        () => `${scene.guest.uuid}/backups/${full.id}.json`,
        () => 'no JSON',
        /nothing of that VM is removed/,
      ],
      [
        'the repository is another one',
        () => 'repository.json',
        (text: string) => text.replace(/"id": "[^"]*"/, `"id": "${randomUUID()}"`),
        /is of repository/,
      ],
      ['the repository is gone', () => 'repository.json', () => null, /repository.json/],
    ])('%s', async (_, key, damage, problem) => {
      const all = Object.values(await leaveFiles());
      const content = await readFile(blob(key()), 'utf8');
      const damaged = damage(content);
      if (damaged === null) await rm(blob(key()));
      else await writeFile(blob(key()), damaged);
      try {
        const { problems } = await reclaim('--grace', '0');
        expect(problems.join('\n')).toMatch(problem);
        expect(present(all)).toEqual(all);
      } finally {
        await writeFile(blob(key()), content);
      }
      expect((await reclaim('--grace', '0')).found).toHaveLength(4);
      await scene.expectNothingLeft();
    });
  });

  it('takes nothing from backups that begin, go on and end meanwhile', async () => {
    let over = false;
    const reclaims: ReclaimedOrphans[] = [];
    const reclaiming = (async () => {
      while (!over) reclaims.push(await reclaim('--grace', '0'));
    })();
    try {
      for (const flags of [['--full'], [], ['--isolated'], []]) {
        await scene.write();
        const now = await scene.contents();
        const backup = await scene.take(...flags);
        await scene.expectStored(backup, now);
      }
    } finally {
      over = true;
      await reclaiming;
    }
    expect(reclaims.flatMap(({ found, problems }) => [...found, ...problems])).toEqual([]);
    await scene.expectNothingLeft();
  });

  it('leaves a backup alone that is being copied', async () => {
    const now = await scene.contents();
    const { jobId } = await scene.beginAndHold('--full');
    const stray = await fileIn(`${scene.guest.uuid}/disk-0/full-20200101-000000.qcow2`);
    expect(await reclaim('--grace', '0')).toMatchObject({ found: [], problems: [] });
    expect(present([stray])).toEqual([stray]);
    scene.contQemu();
    const { result, failure } = await scene.ended(jobId);
    expect(failure).toBeNull();
    if (result !== null) await scene.expectStored(result, now);
    await rm(blob(stray), { force: true });
    await scene.expectNothingLeft();
  });

  it('undoes what a terminated run left though the host has lost its notes of it', async () => {
    const { jobId, backupId } = await scene.beginAndHold('--full');
    await (await scene.holdfast.client()).workflow.getHandle(jobId).terminate('by hand');
    const folder = join(scene.holdfast.dataDir, 'hosts', scene.host.name, 'captures', backupId);
    await scene.holdfast.kill('host');
    await cp(folder, `${folder}-lost`, { recursive: true });
    await rm(folder, { recursive: true });
    scene.contQemu();
    await scene.holdfast.isBack('host');
    const { found, problems } = await reclaim('--grace', '0');
    expect(problems).toEqual([]);
    expect(found.join('\n')).toContain(`backup job ${backupId} on VM ${scene.vm}`);
    expect(found.join('\n')).toMatch(/full-.*qcow2, \d+ bytes, \d+ s old: an upload that nobody goes on with/);
    await rm(`${folder}-lost`, { recursive: true });
    await scene.expectNothingLeft();
    await scene.expectNextRight({ type: 'incremental' });
  });

  it("removes checkpoints that are noted nowhere, and none of other tools' or of backups nobody knows", async () => {
    await scene.take('--full');
    const { libvirt, dom } = scene.guest;
    const [newest] = (await scene.catalog.backups.list({ states: ['BackedUp'] })).filter(({ isolated }) => !isolated);
    const noted = await scene.catalog.checkpoints.list(scene.guest.uuid);
    const stranger = checkpointName(randomUUID());
    for (const name of ['nightly-of-another-tool', stranger]) {
      await libvirt.checkpointCreate(dom, `<domaincheckpoint><name>${name}</name></domaincheckpoint>`);
    }
    for (const { backupId } of noted) await scene.catalog.checkpoints.remove(scene.guest.uuid, backupId);
    const told = await reclaim('--dry-run');
    expect(told.found.join('\n')).toContain(newest?.id);
    expect(told.problems.join('\n')).toContain('of no backup known here, left alone');
    expect(await libvirt.checkpointList(dom)).toContain(checkpointName(newest?.id ?? ''));
    await reclaim();
    expect((await libvirt.checkpointList(dom)).toSorted()).toEqual(['nightly-of-another-tool', stranger].toSorted());
    for (const name of ['nightly-of-another-tool', stranger]) await libvirt.checkpointDelete(dom, name);
    await scene.expectNothingLeft();
    await scene.expectNextRight({ type: 'full', fullReasons: ['checkpoint-lost'] });
  });

  it('ends a delete that was ended by force', async () => {
    const isolated = await scene.take('--isolated');
    await scene.catalog.backups.setState(isolated.id, 'Removed');
    expect((await reclaim('--dry-run')).found.join('\n')).toContain(isolated.id);
    expect(existsSync(blob(isolated.disks[0]?.file ?? ''))).toBe(true);
    await reclaim();
    expect((await scene.catalog.backups.find(isolated.id))?.backup.state).toBe('Expunged');
    await scene.expectNothingLeft();
  });
});
