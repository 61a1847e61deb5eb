import { describe, expect, it } from 'vitest';
import { nameForPlace, repositoryPlace } from '../../cli/repository-place.ts';
import { placeText } from '../../schemas/repository.ts';

describe('the place of a repository', () => {
  it('is a folder, made absolute, or a bucket with a prefix', () => {
    expect(repositoryPlace('/mnt/backups', {})).toEqual({ kind: 'directory', path: '/mnt/backups' });
    expect(repositoryPlace('backups', {})).toEqual({ kind: 'directory', path: `${process.cwd()}/backups` });
    expect(repositoryPlace('s3://bucket', {})).toEqual({
      kind: 's3',
      bucket: 'bucket',
      prefix: '',
      endpoint: null,
      region: 'us-east-1',
      pathStyle: false,
      caFile: null,
      credentials: { kind: 'chain', profile: null },
    });
    const place = repositoryPlace('s3://my.bucket/kvm/site-1/', {
      endpoint: 'https://s3.example.org:9000',
      region: 'eu-1',
      pathStyle: true,
      caFile: '/etc/ca.pem',
      credentialsFile: '/etc/keys',
      profile: 'backup',
    });
    expect(place).toEqual({
      kind: 's3',
      bucket: 'my.bucket',
      prefix: 'kvm/site-1',
      endpoint: 'https://s3.example.org:9000',
      region: 'eu-1',
      pathStyle: true,
      caFile: '/etc/ca.pem',
      credentials: { kind: 'file', path: '/etc/keys', profile: 'backup' },
    });
    expect(placeText(place)).toBe('s3://my.bucket/kvm/site-1 at https://s3.example.org:9000');
  });

  it.each([
    ['s3://', {}, 'bucket of s3://: a bucket has 3 to 63'],
    ['s3://ab', {}, 'bucket of s3://ab'],
    ['s3://Bucket/x', {}, 'bucket of s3://Bucket/x'],
    ['s3://bucket//x', {}, 'prefix of s3://bucket//x'],
    ['s3://bucket/x y', {}, 'prefix of'],
    ['s3://bucket/../other/x', {}, 'prefix of'],
    ['s3://bucket/x/.', {}, 'prefix of'],
    ['s3://bucket/x', { endpoint: 's3.example.org' }, 'endpoint of s3://bucket/x: give an address'],
    ['s3://bucket/x', { endpoint: 'file:///etc' }, 'endpoint of'],
    ['s3://bucket/x', { endpoint: 'https://key:secret@s3.example.org' }, /without keys$/],
    ['s3://bucket/x', { endpoint: 'https://s3.example.org/?key=secret' }, /without keys$/],
    ['s3://bucket/x', { region: 'eu 1' }, 'region of s3://bucket/x: a region has'],
    ['https://bucket/x', {}, 'https:// is no place'],
    ['/mnt/backups', { pathStyle: true }, '--path-style: is for s3://BUCKET/PREFIX'],
  ])('is refused, naming what is wrong: %s', (text, options, message) => {
    expect(() => repositoryPlace(text, options)).toThrow(message);
  });

  it('may have dots in its names', () => {
    const prefixes = ['..a/b..', '.a/.../b.c'];
    expect(prefixes.map((prefix) => repositoryPlace(`s3://bucket/${prefix}`, {}))).toMatchObject(
      prefixes.map((prefix) => ({ prefix })),
    );
  });

  it('gives the repository its name, by its last part', () => {
    expect(nameForPlace(repositoryPlace('/mnt/backups', {}))).toBe('backups');
    expect(nameForPlace(repositoryPlace('s3://bucket/kvm/site-1', {}))).toBe('site-1');
    expect(nameForPlace(repositoryPlace('s3://bucket', {}))).toBe('bucket');
    expect(() => nameForPlace(repositoryPlace('/', {}))).toThrow('give one with --name');
  });
});
