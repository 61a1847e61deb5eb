import { Argument, type Command } from 'commander';
import { fileText } from './files-text.ts';
import { getFiles, placeFor, streamFiles, type GotFiles } from '../../files/get-files.ts';
import { listFileSystems, mountFileSystems } from '../../files/file-systems.ts';
import { listFiles } from '../../files/list-files.ts';
import type { OpenFiles } from '../../files/open-files.ts';
import { isText } from '../../files/shown-name.ts';
import { parseStoredId, parseTarget } from '../backup-id.ts';
import { actionOrFrom, latestOfOption, withFromOptions, type FromFlags } from '../from-repository.ts';
import { sizeText, table, type Output } from '../output.ts';
import { readableOfCatalog, readableOfPlace, readFromOption, type ReadableBackup } from '../readable-backup.ts';
import { stopSignal } from '../stop-signal.ts';
import { WrongUsage } from '../wrong-usage.ts';

type What = 'ls' | 'get' | 'filesystems';

interface FilesFlags extends FromFlags {
  vm?: string;
  repo?: string;
  disk?: string;
  filesystem?: string;
  long?: boolean;
  recursive?: boolean;
  to?: string;
  force?: boolean;
}

export function addFilesCommand(backup: Command): void {
  const files = backup
    .command('files')
    .description('list files in a backup, or bring some back, without restoring it')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique; with --from also `latest`', parseStoredId)
    .addArgument(
      new Argument('<what>', 'list files, get one, or list the file systems').choices(['ls', 'get', 'filesystems']),
    )
    .argument('[path]', 'in the backup; a directory is got with all that is in it')
    .option('--disk <target>', 'the file system of this disk, like vda', parseTarget)
    .option('--filesystem <name>', 'this file system, as `filesystems` names it, like vda1 or vg0/data')
    .option('-l, --long', 'ls: with type, permissions, owner, size and time')
    .option('-r, --recursive', 'ls: also what lies in its directories')
    .option('--to <place>', 'get: a folder, a new name, or - for standard output (a directory as a tar archive)')
    .option('--force', 'get: write over a file that is there');
  withFromOptions(files)
    .addOption(latestOfOption())
    .addOption(readFromOption())
    .addHelpText(
      'after',
      `
Without --disk and --filesystem: the only file system there is, or those of the installed system where it mounts them.

Examples:
  $ holdfast backup files 3f2c9a41 filesystems
  $ holdfast backup files 3f2c9a41 ls /etc -l
  $ holdfast backup files 3f2c9a41 get /etc/fstab --to /tmp
  $ holdfast backup files 3f2c9a41 get /srv/www --filesystem vg0/data --to - | tar -t
  $ holdfast backup files latest get /etc/fstab --vm web-1 --from /mnt/backups     # without an installation`,
    )
    .action(
      actionOrFrom(
        async (context, id: string, what: What, path: string | undefined, flags: FilesFlags) =>
          read(() => readableOfCatalog(context, id, flags.repo), what, path, flags),
        async (from, id, what, path, flags) => read(() => readableOfPlace(from, id, flags), what, path, flags),
      ),
    );
}

/** @param find the backup, after what can be refused without it */
async function read(
  find: () => Promise<ReadableBackup>,
  what: What,
  path: string | undefined,
  flags: FilesFlags,
): Promise<void> {
  if (what === 'get') await get(find, path, flags);
  else if (what === 'ls') await withFiles(await find(), (opened, output) => list(opened, output, path, flags));
  else await withFiles(await find(), listSystems);
}

async function listSystems({ fish, targets }: OpenFiles, output: Output): Promise<void> {
  const found = await listFileSystems(fish, targets);
  output.result(found, () =>
    table(
      ['FILE SYSTEM', 'TYPE', 'LABEL', 'SIZE'],
      found.map(({ name, type, label, sizeBytes }) => [name, type, label, sizeText(sizeBytes)]),
      'no file systems',
    ),
  );
}

async function list(
  { fish, targets }: OpenFiles,
  output: Output,
  path: string | undefined,
  flags: FilesFlags,
): Promise<void> {
  await mountFileSystems(fish, targets, wantedOf(flags));
  const from = fromRoot(path ?? '/');
  const files = await listFiles(fish, from, { isRecursive: flags.recursive ?? false });
  output.result(
    files.map(({ path: bytes, link, mode, ...facts }) => ({
      ...nameOf('path', bytes),
      ...facts,
      mode: mode.toString(8).padStart(4, '0'),
      ...(link === null ? { link: null } : nameOf('link', link)),
    })),
    () => files.map((file) => fileText(file, from, { isLong: flags.long ?? false })).join('\n'),
  );
}

async function get(find: () => Promise<ReadableBackup>, path: string | undefined, flags: FilesFlags): Promise<void> {
  if (path === undefined) throw new WrongUsage('say which path to get');
  const from = fromRoot(path);
  const toStream = flags.to === '-';
  // Refused before a VM is started for it.
  const place = toStream ? '' : await placeFor(from, flags.to, { force: flags.force ?? false });
  await withFiles(await find(), async ({ fish, targets }, output) => {
    await mountFileSystems(fish, targets, wantedOf(flags));
    if (toStream) {
      await streamFiles(fish, from, process.stdout);
      return;
    }
    const got = await getFiles(fish, from, place, { force: flags.force ?? false });
    output.result(got, () => gotText(got));
  });
}

/** What the small VM was refused is told: as the reason where the work fails, else as notes. */
async function withFiles(
  { output, store, keys, id, vm }: ReadableBackup,
  work: (opened: OpenFiles, output: Output) => Promise<void>,
): Promise<void> {
  const { openFiles } = await import('../../files/open-files.ts');
  const { refusedBecause } = await import('../../files/refused-because.ts');
  const refused = new Map<string, Error>();
  const onProblem = (problem: Error): void => void refused.set(problem.message, problem);
  try {
    await using opened = await openFiles(
      store,
      { vmUuid: vm.uuid, backupId: id },
      { keys, onProblem, signal: stopSignal() },
    );
    await work(opened, output);
  } catch (error) {
    throw refusedBecause(error, [...refused.values()]);
  }
  for (const message of refused.keys()) output.note(message);
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
