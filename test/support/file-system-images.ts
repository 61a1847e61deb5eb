import { spawn } from 'node:child_process';
import { link, mkdir, open, rm, symlink, truncate, writeFile, chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { qemuAcceptsKvm } from '../../operations/qemu-accepts-kvm.ts';
import { quoted } from '../../files/guestfish.ts';
import { run } from './run.ts';

const MiB = 1024 * 1024;

/** Disks whose file systems were in use when the images were taken: what was written last is in their journals only. */
export interface FileSystemImages {
  /** Raw images: vda = ext4 and xfs in partitions, with a system's fstab; vdb = ntfs; vdc and vdd = one logical volume. */
  vda: string;
  vdb: string;
  vdc: string;
  vdd: string;
}

/** A tree of files of all kinds, and under names that a careless program falls over. */
export async function makeTree(folder: string): Promise<void> {
  await mkdir(join(folder, 'deep', 'er'), { recursive: true });
  await mkdir(join(folder, 'empty'));
  await writeFile(join(folder, 'deep', 'er', 'plain.txt'), 'as it was written\n');
  await writeFile(join(folder, 'new\nline \x1b[31mred'), 'a name of two lines\n');
  await writeFile(
    Buffer.concat([Buffer.from(`${folder}/bytes-`), Buffer.from([0xff, 0xfe])]),
    'a name that is no text\n',
  );
  await writeFile(join(folder, `it's "quoted" \\x41 $HOME`), 'quotes\n');
  await writeFile(join(folder, '..two dots'), 'not the parent\n');
  await writeFile(join(folder, 'n'.repeat(200)), 'a long name\n');
  await mkdir(join(folder, 'm'.repeat(120)));
  await writeFile(join(folder, 'm'.repeat(120), 'n'.repeat(120)), 'a long path\n');
  await chmod(join(folder, 'deep', 'er', 'plain.txt'), 0o4750);
  await link(join(folder, 'deep', 'er', 'plain.txt'), join(folder, 'hard link'));
  await symlink('/etc/passwd', join(folder, 'absolute'));
  await symlink('../../../../outside', join(folder, 'deep', 'upwards'));
  await symlink('deep/er/plain.txt', join(folder, 'inside'));
  await run('mkfifo', [join(folder, 'pipe')]);
  // 16 MiB, of which the last two blocks hold something.
  await writeFile(join(folder, 'sparse'), '');
  await truncate(join(folder, 'sparse'), 16 * MiB);
  await using sparse = await open(join(folder, 'sparse'), 'r+');
  await sparse.write(Buffer.alloc(5000, 'x'), 0, 5000, 16 * MiB - 5000);
}

/**
 * Makes the images in one start of libguestfs' small VM, and copies them while it has their file systems mounted.
 * @param tree goes into each file system as `tree`, where that can hold it
 */
export async function makeFileSystemImages(
  folder: string,
  { tree, large }: { tree: string; large: string },
): Promise<FileSystemImages> {
  const draft = (name: string): string => join(folder, `${name}.draft`);
  const image = (name: string): string => join(folder, `${name}.img`);
  const names = ['vda', 'vdb', 'vdc', 'vdd'] as const;
  const sizes = { vda: 480, vdb: 48, vdc: 64, vdd: 64 };
  await run('tar', ['-C', tree, '-cf', join(folder, 'tree.tar'), '.']);
  const words = (...parts: string[]): string => parts.map((part, at) => (at === 0 ? part : quoted(part))).join(' ');
  const script = [
    ...names.map((name) => words('sparse', draft(name), `${sizes[name]}M`)),
    'run',
    'part-init /dev/sda gpt',
    'part-add /dev/sda p 2048 245759',
    'part-add /dev/sda p 245760 -2048',
    'mkfs ext4 /dev/sda1 label:root',
    'mkfs xfs /dev/sda2',
    'mkfs ntfs /dev/sdb',
    'vgcreate vg0 "/dev/sdc /dev/sdd"',
    'lvcreate-free data vg0 100',
    'mkfs ext4 /dev/vg0/data',
    'mount /dev/sda1 /',
    ...['/etc', '/bin', '/lib', '/srv', '/ntfs', '/lvm'].map((path) => words('mkdir', path)),
    words('write', '/etc/os-release', 'ID=debian\nVERSION_ID="12"\n'),
    words('write', '/etc/fstab', '/dev/vda1 / ext4 defaults 0 1\n/dev/vda2 /srv xfs defaults 0 2\n'),
    'ln-s /srv/tree /shortcut',
    'mount /dev/sda2 /srv',
    'mount /dev/sdb /ntfs',
    'mount /dev/vg0/data /lvm',
    'sync',
    ...['/srv/tree'].flatMap((path) => [words('mkdir', path), words('tar-in', join(folder, 'tree.tar'), path)]),
    ...['/srv/large', '/ntfs/large', '/lvm/large'].map((path) => words('upload', large, path)),
    words('mkdir-p', '/ntfs/Users/Änne'),
    words('write', '/ntfs/Users/Änne/notes.txt', 'as it was written\r\n'),
    'sync',
    ...names.map((name) => `!cp --sparse=always ${draft(name)} ${image(name)}`),
  ];
  await guestfish(script.join('\n'));
  for (const name of names) await rm(draft(name));
  return { vda: image('vda'), vdb: image('vdb'), vdc: image('vdc'), vdd: image('vdd') };
}

async function guestfish(script: string): Promise<void> {
  const child = spawn('guestfish', [], {
    stdio: ['pipe', 'ignore', 'pipe'],
    env: {
      ...process.env,
      LIBGUESTFS_BACKEND: 'direct',
      ...((await qemuAcceptsKvm()) ? {} : { LIBGUESTFS_BACKEND_SETTINGS: 'force_tcg' }),
    },
  });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.end(`${script}\n`);
  const code = await new Promise((done, failed) => child.once('error', failed).once('close', done));
  if (code !== 0) throw new Error(`guestfish: ${stderr}`);
}
