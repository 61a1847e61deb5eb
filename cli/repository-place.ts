import type { Command } from 'commander';
import { basename, resolve } from 'node:path';
import { plainName } from '../schemas/names.ts';
import { s3Place, type RepositoryLocation } from '../schemas/repository.ts';
import { WrongUsage } from './wrong-usage.ts';

/** What tells more of `s3://bucket/prefix`. Keys are never among it: arguments are seen by everybody on the machine. */
export interface PlaceOptions {
  endpoint?: string;
  region?: string;
  pathStyle?: boolean;
  caFile?: string;
  credentialsFile?: string;
  profile?: string;
}

export const PLACE_HELP = 'folder (the same path on every host that uses it), or s3://BUCKET/PREFIX';

/** Adds the options of a command that takes a place. */
export const withPlaceOptions = (command: Command): Command =>
  command
    .option('--endpoint <url>', "S3: the server's address (default: Amazon's for the region)")
    .option('--region <name>', 'S3: region of the bucket (default: us-east-1)')
    .option('--path-style', 'S3: the bucket is in the path of the address, not in its host name')
    .option('--ca-file <path>', "S3: PEM file with the certificates that the server's is checked against")
    .option(
      '--credentials-file <path>',
      'S3: INI file with the keys, as ~/.aws/credentials; its owner alone may read it',
    )
    .option('--profile <name>', 'S3: the profile in it, or in the files of the AWS tools (default: default)');

/**
 * The place that a person names: a folder, or `s3://bucket/prefix`.
 * @throws WrongUsage naming the argument or option
 */
export function repositoryPlace(text: string, options: PlaceOptions): RepositoryLocation {
  const given = Object.entries({
    '--endpoint': options.endpoint,
    '--region': options.region,
    '--path-style': options.pathStyle,
    '--ca-file': options.caFile,
    '--credentials-file': options.credentialsFile,
    '--profile': options.profile,
  }).filter(([, value]) => value !== undefined);
  const scheme = /^([a-zA-Z0-9+.-]+):\/\//.exec(text)?.[1];
  if (scheme === undefined) {
    if (given[0] !== undefined) {
      throw new WrongUsage(`${given[0][0]}: is for s3://BUCKET/PREFIX, and ${text} is a folder`);
    }
    return { kind: 'directory', path: resolve(text) };
  }
  const found = /^s3:\/\/([^/]*)\/?(.*?)\/*$/.exec(text);
  if (found === null) {
    throw new WrongUsage(`location: ${scheme}:// is no place for backups; give a folder or s3://BUCKET/PREFIX`);
  }
  const profile = options.profile ?? null;
  const parsed = s3Place.safeParse({
    kind: 's3',
    bucket: found[1],
    prefix: found[2],
    endpoint: options.endpoint ?? null,
    ...(options.region === undefined ? {} : { region: options.region }),
    pathStyle: options.pathStyle ?? false,
    caFile: options.caFile === undefined ? null : resolve(options.caFile),
    credentials:
      options.credentialsFile === undefined
        ? { kind: 'chain', profile }
        : { kind: 'file', path: resolve(options.credentialsFile), profile },
  });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new WrongUsage(
    `location: ${String(issue?.path[0])} of ${text}: ${REASONS[String(issue?.path[0])] ?? issue?.message ?? 'is wrong'}`,
  );
}

const REASONS: Record<string, string> = {
  bucket: 'a bucket has 3 to 63 lower-case letters, digits, dots and hyphens',
  prefix: 'a prefix has letters, digits, ".", "_" and "-", in segments with "/" between, none of them "." or ".."',
  endpoint: 'give an address as https://s3.example.org or http://10.0.0.5:7070, without keys',
  region: 'a region has letters, digits, "_" and "-"',
};

/** The name of a repository that was given none: the last part of its place. @throws WrongUsage */
export function nameForPlace(location: RepositoryLocation): string {
  const name = location.kind === 'directory' ? basename(location.path) : basename(location.prefix) || location.bucket;
  if (plainName.safeParse(name).success) return name;
  throw new WrongUsage(`name: "${name}" makes no name; give one with --name`);
}
