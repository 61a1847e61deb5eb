import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Guestfish, quoted } from '../../files/guestfish.ts';
import { tempDir } from '../support/temp.ts';

it('writes each byte of a name that could mean something to guestfish as its number', () => {
  expect(quoted('/etc/fs tab')).toBe('"/etc/fs\\x20tab"');
  expect(quoted('a"\nrm-rf /\\')).toBe('"a\\x22\\x0arm-rf\\x20/\\x5c"');
  expect(quoted(Buffer.from([0xff, 0x27]))).toBe('"\\xff\\x27"');
});

/** A program in guestfish's place: what it says, and when it ends, is all that is looked at. */
describe('Guestfish', () => {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  beforeEach(async () => {
    dir = await tempDir();
    await mkdir(join(dir.path, 'bin'));
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await dir[Symbol.asyncDispose]();
  });
  const start = async (script: string | null): Promise<Guestfish> => {
    if (script !== null) {
      await writeFile(join(dir.path, 'bin', 'guestfish'), `#!/bin/bash\n${script}\n`);
      await chmod(join(dir.path, 'bin', 'guestfish'), 0o755);
    }
    vi.stubEnv(
      'PATH',
      script === null ? join(dir.path, 'bin') : `${join(dir.path, 'bin')}:${process.env['PATH'] ?? ''}`,
    );
    vi.stubEnv('LIBGUESTFS_PATH', '/somewhere');
    return await Guestfish.start([], { folder: dir.path, signal: AbortSignal.timeout(20_000) });
  };
  const ECHO = 'while read -r command words; do case $command in echo) echo "$words" ;;';

  it('tells the outputs of commands from each other, whatever they print', async () => {
    await using fish = await start(`${ECHO} say) printf 'echo end-0000\\n{ no line end' ;; quiet) ;; esac; done`);
    const [first, second, third] = await Promise.all([fish.ask('say'), fish.ask('quiet'), fish.ask('say')]);
    expect([first, second, third].map(String)).toEqual([
      'echo end-0000\n{ no line end',
      '',
      'echo end-0000\n{ no line end',
    ]);
  });

  it('hands on what a command writes to its file, and the reason when it fails before', async () => {
    const fish = await start(
      `${ECHO} good) eval "file=$words"; printf 'a\\nb' >"$file" ;; bad) echo 'libguestfs: error: download: /x: gone' >&2; exit 1 ;; esac; done`,
    );
    const chunks: Buffer[] = [];
    for await (const chunk of fish.read('good')) chunks.push(chunk);
    expect(Buffer.concat(chunks).toString()).toBe('a\nb');
    await expect(fish.read('bad').next()).rejects.toMatchObject({
      type: 'FilesNotReadable',
      message: 'libguestfs: download: /x: gone',
    });
    await expect(fish.ask('anything')).rejects.toThrow('gone');
    await fish[Symbol.asyncDispose]();
  });

  it('names the package when guestfish is missing', async () => {
    await expect(start(null)).rejects.toMatchObject({
      type: 'FilesToolMissing',
      message: expect.stringContaining('apt-get install guestfish') as string,
    });
  });
});
