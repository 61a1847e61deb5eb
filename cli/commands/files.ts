import { Argument, type Command } from 'commander';
import { fileText } from './files-text.ts';
import { getFiles, placeFor, streamFiles, type GotFiles } from '../../files/get-files.ts';
import { listFileSystems, mountFileSystems } from '../../files/file-systems.ts';
import { listFiles } from '../../files/list-files.ts';
import { isText } from '../../files/shown-name.ts';
import { findBackup } from '../../operations/find-backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action, type CommandContext } from '../context.ts';
import { sizeText, table } from '../output.ts';
import { stopSignal } from '../stop-signal.ts';
import { parseIdPrefix, parseTarget } from '../backup-id.ts';

type What = 'ls' | 'get' | 'filesystems';

interface FilesFlags {
  disk?: string;
  filesystem?: string;
  long?: boolean;
  recursive?: boolean;
  to?: string;
  force?: boolean;
}

export function addFilesCommand(backup: Command): void {
  backup
    .command('files')
    .description('list files in a backup, or bring some back, without restoring it')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .addArgument(
      new Argument('<what>', 'list files, get one, or list the file systems').choices(['ls', 'get', 'filesystems']),
    )
    .argument('[path]', 'in the backup; a directory is got with all that is in it')
    .option('--disk <target>', 'the file system of this disk, like vda', parseTarget)
    .option('--filesystem <name>', 'this file system, as `filesystems` names it, like vda1 or vg0/data')
    .option('-l, --long', 'ls: with type, permissions, owner, size and time')
    .option('-r, --recursive', 'ls: also what lies in its directories')
    .option('--to <place>', 'get: a folder, a new name, or - for standard output (a directory as a tar archive)')
    .option('--force', 'get: write over a file that is there')
    .addHelpText(
      'after',
      `
Without --disk and --filesystem: the only file system there is, or those of the installed system where it mounts them.

Examples:
  $ holdfast backup files 3f2c9a41 filesystems
  $ holdfast backup files 3f2c9a41 ls /etc -l
  $ holdfast backup files 3f2c9a41 get /etc/fstab --to /tmp
  $ holdfast backup files 3f2c9a41 get /srv/www --filesystem vg0/data --to - | tar -t`,
    )
    .action(
      action(async (context, id: string, what: What, path: string | undefined, flags: FilesFlags) => {
        if (what === 'get') await get(context, id, path, flags);
        else if (what === 'ls') await list(context, id, path, flags);
        else await listSystems(context, id);
      }),
    );
}

async function listSystems(context: CommandContext, id: string): Promise<void> {
  await using opened = await open(context, id);
  const found = await listFileSystems(opened.fish, opened.targets);
  context.output.result(found, () =>
    table(
      ['FILE SYSTEM', 'TYPE', 'LABEL', 'SIZE'],
      found.map(({ name, type, label, sizeBytes }) => [name, type, label, sizeText(sizeBytes)]),
      'no file systems',
    ),
  );
}

async function list(context: CommandContext, id: string, path: string | undefined, flags: FilesFlags): Promise<void> {
  await using opened = await open(context, id);
  await mountFileSystems(opened.fish, opened.targets, wantedOf(flags));
  const from = fromRoot(path ?? '/');
  const files = await listFiles(opened.fish, from, { isRecursive: flags.recursive ?? false });
  context.output.result(
    files.map(({ path: bytes, link, mode, ...facts }) => ({
      ...nameOf('path', bytes),
      ...facts,
      mode: mode.toString(8).padStart(4, '0'),
      ...(link === null ? { link: null } : nameOf('link', link)),
    })),
    () => files.map((file) => fileText(file, from, { isLong: flags.long ?? false })).join('\n'),
  );
}

async function get(context: CommandContext, id: string, path: string | undefined, flags: FilesFlags): Promise<void> {
  if (path === undefined) throw new HoldfastError('InvalidRequest', 'say which path to get');
  const from = fromRoot(path);
  const toStream = flags.to === '-';
  // Refused before a VM is started for it.
  const place = toStream ? '' : await placeFor(from, flags.to, { force: flags.force ?? false });
  await using opened = await open(context, id);
  await mountFileSystems(opened.fish, opened.targets, wantedOf(flags));
  if (toStream) {
    await streamFiles(opened.fish, from, process.stdout);
    return;
  }
  const got = await getFiles(opened.fish, from, place, { force: flags.force ?? false });
  context.output.result(got, () => gotText(got));
}

async function open(context: CommandContext, id: string) {
  const catalog = await context.catalog();
  const { backup } = await findBackup(catalog, id);
  const repository = await catalog.repositories.find(backup.repository);
  if (repository === undefined)
    throw new HoldfastError('RepositoryNotFound', `repository ${backup.repository} is not known`);
  const { openFiles } = await import('../../files/open-files.ts');
  const { openBlobStore } = await import('../../repository/open-repository.ts');
  const { openRepository } = await import('../../repository/identity.ts');
  const { keysFor } = await import('../../repository/repository-keys.ts');
  const store = openBlobStore(repository.location);
  await openRepository(store, repository);
  return await openFiles(
    store,
    { vmUuid: backup.vm.uuid, backupId: backup.id },
    {
      keys: await keysFor(store, repository),
      onProblem: ({ message }) => context.output.note(message),
      signal: stopSignal(),
    },
  );
}

const wantedOf = ({ disk, filesystem }: FilesFlags) => ({ disk, fileSystem: filesystem });

const fromRoot = (path: string): string => (path.startsWith('/') ? path : `/${path}`);

/** A name that is no text is given as bytes too: nothing else names the file. */
const nameOf = (field: 'path' | 'link', bytes: Buffer): Record<string, string> => ({
  [field]: bytes.toString(),
  ...(isText(bytes) ? {} : { [`${field}Base64`]: bytes.toString('base64') }),
});

function gotText({ to, files, directories, links, bytes, skipped }: GotFiles): string {
  const counts = [
    `${files} ${files === 1 ? 'file' : 'files'}`,
    ...(directories === 0 ? [] : [`${directories} directories`]),
    ...(links === 0 ? [] : [`${links} symbolic links`]),
  ];
  return [
    `${to}: ${counts.join(', ')}, ${sizeText(bytes)}`,
    ...skipped.map((path) => `left out, a device, pipe or socket: ${path}`),
  ].join('\n');
}
