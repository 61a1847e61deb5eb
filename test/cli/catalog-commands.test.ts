import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { tempDir } from '../support/temp.ts';
import { runCli } from './run-cli.ts';

const VM = { uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', name: 'web-1', host: 'kvm-1', power: 'running' } as const;

describe('commands that need the catalog alone', () => {
  it('make hosts, repositories and offerings, and list them', async () => {
    await using dir = await tempDir();
    const data = join(dir.path, 'data');
    const json = (...args: string[]): unknown => {
      const { exitCode, stdout, stderr } = runCli(['--json', '--data', data, ...args]);
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
      return JSON.parse(stdout);
    };
    expect(json('host', 'add', 'kvm-1', '--slots', '3')).toMatchObject({ name: 'kvm-1', slots: 3 });
    expect(json('repo', 'add', join(dir.path, 'backups'), '--name', 'main')).toMatchObject({ name: 'main' });
    expect(existsSync(join(dir.path, 'backups', 'repository.json'))).toBe(true);
    expect(json('offering', 'create', 'gold', '--chain-size', '14', '--repo', 'main')).toMatchObject({ chainSize: 14 });
    {
      await using catalog = await openCatalog(`sqlite:${join(data, 'catalog.sqlite')}`);
      await catalog.vms.recordSighting({ ...VM, disks: [] }, new Date().toISOString());
    }
    expect(json('offering', 'assign', 'gold', 'web-1')).toMatchObject({ vm: { name: 'web-1' }, offering: 'gold' });
    expect(json('offering', 'ls')).toMatchObject([{ name: 'gold', vms: ['web-1'] }]);
    expect(json('offering', 'update', 'gold', '--chain-size', '7', '--keep-daily', '3')).toMatchObject({
      chainSize: 7,
      retention: { daily: 3 },
    });
    expect(json('offering', 'show', 'gold')).toMatchObject({ repository: 'main', chainSize: 7, vms: ['web-1'] });
    const inUse = runCli(['--json', '--data', data, 'offering', 'delete', 'gold']);
    expect(JSON.parse(inUse.stderr)).toMatchObject({ error: { type: 'OfferingInUse' } });
    // Temporal is away: the removal is recorded all the same, and says what is left to do.
    expect(json('offering', 'remove', 'web-1')).toMatchObject({
      offering: null,
      note: expect.stringContaining('chain finish web-1') as string,
    });
    const again = runCli(['--json', '--data', data, 'offering', 'remove', 'web-1']);
    expect(JSON.parse(again.stderr)).toMatchObject({ error: { type: 'NotProtected' } });
    expect(json('offering', 'delete', 'gold')).toMatchObject({ deleted: true });
    expect(json('offering', 'ls')).toEqual([]);
    expect(json('host', 'ls')).toMatchObject([{ name: 'kvm-1', worker: 'unknown', vms: 1 }]);
    expect(json('repo', 'ls')).toMatchObject([{ name: 'main', backups: 0, copies: 0 }]);
    expect(json('backup', 'ls')).toEqual([]);

    const offered = runCli(['complete', '--', '--data', data, 'backup', 'take', '']);
    expect(offered).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining('web-1\trunning on kvm-1') as string,
    });
    const repositories = runCli(['complete', '--', 'backup', 'take', '--data', data, '--repo', '']);
    expect(repositories.stdout).toContain('main\t');
    for (const command of ['repo key rotate', 'repo rescan', 'repo copy 3f2c9a41 --to']) {
      const known = runCli(['complete', '--', '--data', data, ...command.split(' '), '']);
      expect(known.stdout).toContain('main\t');
    }
    const folders = runCli(['complete', '--', '--data', data, 'restore', '3f2c9a41', '--to', '']);
    expect(folders.stdout).not.toContain('main\t');
  }, 120_000);

  it('take --json and --data before and after the command, and HOLDFAST_DATA', async () => {
    await using dir = await tempDir();
    const places = ['a', 'b', 'c'].map((name) => join(dir.path, name));
    const [before = '', after = '', environment = ''] = places;
    for (const { stdout } of [
      runCli(['--json', '--data', before, 'offering', 'ls']),
      runCli(['offering', 'ls', '--data', after, '--json']),
      runCli(['offering', '--json', 'ls'], { env: { HOLDFAST_DATA: environment } }),
    ]) {
      expect(JSON.parse(stdout)).toEqual([]);
    }
    expect(places.map((place) => existsSync(join(place, 'catalog.sqlite')))).toEqual([true, true, true]);
  });

  it('fail with 1, and name what is not there', async () => {
    await using dir = await tempDir();
    const error = (...args: string[]): unknown => {
      const { exitCode, stdout, stderr } = runCli([...args, '--json', '--data', dir.path]);
      expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
      return (JSON.parse(stderr) as { error: unknown }).error;
    };
    expect(error('backup', 'show', 'abcd1234')).toMatchObject({ type: 'BackupNotFound' });
    expect(error('host', 'rm', 'kvm-9')).toMatchObject({ type: 'HostNotFound' });
    expect(error('offering', 'assign', 'gold', 'web-1')).toMatchObject({ type: 'OfferingNotFound' });
    expect(error('backup', 'take', 'web-1')).toMatchObject({ type: 'TemporalUnreachable' });
    // A folder that cannot be made, though the one above it is there: Node tries that for ever.
    expect(error('repo', 'add', '/proc/holdfast/x')).toMatchObject({ type: 'RepositoryUnavailable' });
  }, 60_000);
});

describe('doctor', () => {
  it('works without Temporal and libvirt, which are failed checks', async () => {
    await using dir = await tempDir();
    const { exitCode, stdout } = runCli(['doctor', '--json', '--data', dir.path, '--libvirt', join(dir.path, 'none')]);
    expect(exitCode).toBe(1);
    const { healthy, checks } = JSON.parse(stdout) as { healthy: boolean; checks: { name: string; state: string }[] };
    expect(healthy).toBe(false);
    const states = Object.fromEntries(checks.map(({ name, state }) => [name, state]));
    expect(states).toMatchObject({
      socket: 'fail',
      libvirt: 'fail',
      temporal: 'fail',
      repository: 'warn',
      clock: 'ok',
    });
  });
});
