import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { connectNbd, listNbdExports } from '../../nbd/connection.ts';
import { joined } from '../../nbd/extents.ts';
import { endProcess, until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import { startNbdkit, startQemuNbd } from './real-nbd-server.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const TIB = MIB * MIB;

async function qcow2(folder: string, sizeBytes: number, ...commands: string[]): Promise<string> {
  const path = join(folder, 'disk.qcow2');
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', path, String(sizeBytes)]);
  for (const command of commands) await run('qemu-io', ['-f', 'qcow2', '-c', command, path]);
  return path;
}

describe('an NBD connection to qemu-nbd', () => {
  it('lists exports and reads one', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, 4 * MIB, 'write -P 65 1M 100k');
    await using server = await startQemuNbd(folder.path, ['-x', 'vda', '-f', 'qcow2', path]);
    expect(await listNbdExports(server)).toEqual(['vda']);
    await using connection = await connectNbd(server, 'vda');
    expect(connection.info).toMatchObject({ sizeBytes: 4 * MIB, isReadOnly: true, canMultiConn: true });
    const whole = Buffer.alloc(4 * MIB, 0xee);
    expect(await connection.read([{ offset: 0, into: whole }])).toBe(128 * KIB);
    const expected = Buffer.alloc(4 * MIB);
    expected.fill(65, MIB, MIB + 100 * KIB);
    expect(whole.equals(expected)).toBe(true);
  });

  it('says that an export is unknown', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, MIB);
    await using server = await startQemuNbd(folder.path, ['-x', 'vda', '-f', 'qcow2', path]);
    await expect(connectNbd(server, 'vdb')).rejects.toMatchObject({ name: 'NbdRefused', code: 'unknown' });
    await expect(connectNbd(server, 'vda', { contexts: ['qemu:dirty-bitmap:none'] })).rejects.toMatchObject({
      name: 'NbdRefused',
    });
  });

  it('reads a dirty bitmap and the allocation together', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, 8 * MIB, 'write -P 1 0 1M');
    await run('qemu-img', ['bitmap', '--add', path, 'b0']);
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 2 3M 64k', '-c', 'write -z -u 0 64k', path]);
    await using server = await startQemuNbd(folder.path, ['-B', 'b0', '-f', 'qcow2', path]);
    await using connection = await connectNbd(server, '', { contexts: ['qemu:dirty-bitmap:b0', 'base:allocation'] });
    const changed = (await Array.fromAsync(joined(connection.extents()))).filter(({ flags }) => flags[0] === 1);
    expect(changed).toEqual([
      { offset: 0, lengthBytes: 64 * KIB, flags: [1, 3] },
      { offset: 3 * MIB, lengthBytes: 64 * KIB, flags: [1, 0] },
    ]);
  });

  it('walks 60 TiB', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, 60 * TIB, 'write -P 1 41T 64k');
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', path]);
    await using connection = await connectNbd(server, '', { contexts: ['base:allocation'] });
    expect(await Array.fromAsync(joined(connection.extents()))).toEqual([
      { offset: 0, lengthBytes: 41 * TIB, flags: [3] },
      { offset: 41 * TIB, lengthBytes: 64 * KIB, flags: [0] },
      { offset: 41 * TIB + 64 * KIB, lengthBytes: 19 * TIB - 64 * KIB, flags: [3] },
    ]);
  });

  it('fails reads with NbdConnectionLost when the server is killed', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, 256 * MIB, 'write -P 1 0 256M');
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', path]);
    await using connection = await connectNbd(server, '');
    const into = Buffer.alloc(256 * MIB);
    const outcome = connection.read([{ offset: 0, into }]).catch((error: unknown) => error);
    await until('data flows', () => into[0] === 1, { everyMs: 1 });
    await server.kill();
    expect(await outcome).toMatchObject({ name: 'NbdConnectionLost' });
    await expect(connectNbd(server, '')).rejects.toMatchObject({ name: 'NbdConnectionLost' });
  });

  it('connects over TCP', async () => {
    await using folder = await tempDir();
    const path = await qcow2(folder.path, MIB, 'write -P 7 0 1M');
    const pidFile = join(folder.path, 'pid');
    const port = 20_000 + (process.pid % 20_000);
    const args = ['-r', '-t', '-b', '127.0.0.1', '-p', String(port), '--pid-file', pidFile, '-f', 'qcow2', path];
    const child = spawn('qemu-nbd', args, { stdio: 'ignore' });
    try {
      const address = { host: '127.0.0.1', port };
      await until('it listens', () =>
        listNbdExports(address).then(
          () => true,
          () => false,
        ),
      );
      await using connection = await connectNbd(address, '');
      const into = Buffer.alloc(4096);
      await connection.read([{ offset: 4096, into }]);
      expect(into.equals(Buffer.alloc(4096, 7))).toBe(true);
    } finally {
      await endProcess(child.pid!);
    }
  });
});

describe('an NBD connection to nbdkit', () => {
  it('reads over several connections', async () => {
    await using folder = await tempDir();
    await using server = await startNbdkit(folder.path, ['-r', 'pattern', '10T']);
    const read = async (offset: number) => {
      await using connection = await connectNbd(server, '');
      const into = Buffer.alloc(3 * MIB);
      await connection.read([{ offset, into }]);
      return into.readBigUInt64BE(3 * MIB - 8);
    };
    expect(await Promise.all([read(0), read(9 * TIB)])).toEqual([BigInt(3 * MIB - 8), BigInt(9 * TIB + 3 * MIB - 8)]);
  });

  it('passes on an error that the plugin injects', async () => {
    await using folder = await tempDir();
    await using server = await startNbdkit(folder.path, [
      '--filter=error',
      'memory',
      '1M',
      'error-pread=EIO',
      'error-pread-rate=100%',
    ]);
    await using connection = await connectNbd(server, '');
    await expect(connection.read([{ offset: 0, into: Buffer.alloc(512) }])).rejects.toMatchObject({
      name: 'NbdError',
      code: 'EIO',
    });
  });

  it('works without structured replies', async () => {
    await using folder = await tempDir();
    await using server = await startNbdkit(folder.path, ['--no-sr', 'pattern', '1M']);
    await using connection = await connectNbd(server, '');
    const into = Buffer.alloc(16);
    expect(await connection.read([{ offset: 64, into }])).toBe(16);
    expect([into.readBigUInt64BE(0), into.readBigUInt64BE(8)]).toEqual([64n, 72n]);
  });
});
