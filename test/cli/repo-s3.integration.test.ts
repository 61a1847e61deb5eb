import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { missingS3Server, startS3Server } from '../support/s3-server.ts';
import { tempDir } from '../support/temp.ts';
import { runCli } from './run-cli.ts';

const missing = missingS3Server('minio');

describe.skipIf(missing !== undefined)(missing ?? 'repositories in buckets, on the command line', () => {
  it('are added after a check, belong to one installation, and are taken over only on purpose', async () => {
    await using dir = await tempDir();
    await using server = await startS3Server('minio');
    const { bucket } = await server.newPlace();
    const cli = (data: string, ...args: string[]) => runCli(['--json', '--data', join(dir.path, data), ...args]);
    const json = (data: string, ...args: string[]): unknown => {
      const { exitCode, stdout, stderr } = cli(data, ...args);
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
      return JSON.parse(stdout);
    };
    const error = (data: string, ...args: string[]): unknown => {
      const { exitCode, stdout, stderr } = cli(data, ...args);
      expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
      expect(stderr).not.toContain(server.keys.secretAccessKey);
      return (JSON.parse(stderr) as { error: unknown }).error;
    };
    const place = [`s3://${bucket}/kvm`, '--endpoint', server.endpoint, '--path-style'];
    const add = ['repo', 'add', ...place, '--credentials-file', server.credentialsFile];

    const wrong = join(dir.path, 'wrong');
    await writeFile(wrong, '[default]\naws_access_key_id = NOBODY\naws_secret_access_key = x\n', { mode: 0o600 });
    expect(error('a', 'repo', 'add', ...place, '--credentials-file', wrong)).toMatchObject({
      type: 'RepositoryAccessDenied',
      message: expect.stringContaining('cannot read repository.json: 403 InvalidAccessKeyId') as string,
    });
    expect(json('a', 'repo', 'ls')).toEqual([]);

    expect(json('a', ...add)).toMatchObject({ name: 'kvm', location: { kind: 's3', bucket, prefix: 'kvm' } });
    expect(json('a', 'repo', 'ls')).toMatchObject([{ name: 'kvm', backups: 0, freeBytes: null }]);
    expect(json('a', 'repo', 'check-access', 'kvm')).toMatchObject({
      repository: 'kvm',
      acts: ['read', 'write', 'upload', 'list', 'delete'],
    });

    expect(error('b', ...add)).toMatchObject({
      type: 'RepositoryOwned',
      message: expect.stringContaining('holdfast repo add --take-over') as string,
    });
    expect(json('b', ...add, '--take-over')).toMatchObject({ name: 'kvm' });
    expect(error('a', 'repo', 'check-access', 'kvm')).toMatchObject({ type: 'RepositoryOwned' });
  }, 180_000);
});
