import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createCopierPool } from '../../copier/pool.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { startQemuNbd } from '../nbd/real-nbd-server.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import { tempDir } from '../support/temp.ts';
import { copyOf, expectSameDisk, makeDisk, MIB, noiseFile } from './copy-fixture.ts';

const missing = missingS3Server('versitygw');
const pool = createCopierPool();
let server: S3Server | undefined;
beforeAll(async () => {
  if (missing === undefined) server = await startS3Server('versitygw');
});
afterAll(async () => {
  await pool[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
});
const { signal } = new AbortController();
const SIZE = 256 * MIB;
const program = new URL('./copy-program.ts', import.meta.url).pathname;

async function liveDisk(folder: string): Promise<string> {
  const live = join(folder, 'live.qcow2');
  const noise = noiseFile(folder, 32 * MIB);
  await makeDisk(live, SIZE, [
    `write -s ${noise} 0 32M`,
    'write -P 97 40M 64M',
    `write -s ${noise} 128M 32M`,
    'write -P 98 200M 32M',
  ]);
  return live;
}

describe.skipIf(missing !== undefined)(`a disk in a bucket${missing === undefined ? '' : ` (${missing})`}`, () => {
  it('is copied on after kill -9, restored from there, and rewritten in there', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using export_ = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const place = await server!.newPlace();
    const store = openBlobStore(place);
    const key = 'vm/disk-0/full.qcow2';
    const upload = await store.createUpload(key, { expectedBytes: 0 });
    const { path: _, sink: __, ...copy } = copyOf(folder.path, export_.socketPath, SIZE);
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const child = spawn(
        process.execPath,
        [program, JSON.stringify({ ...copy, upload: { place, key, token: upload.token } })],
        {
          stdio: ['ignore', 'ignore', 'inherit'],
        },
      );
      const exit = once(child, 'exit');
      const storedParts = (): number =>
        existsSync(copy.journalPath) ? readFileSync(copy.journalPath, 'latin1').split('"fillers":').length - 1 : 0;
      const before = storedParts();
      await until('it has stored another part', () => child.exitCode !== null || storedParts() > before, {
        everyMs: 2,
      });
      child.kill('SIGKILL');
      await exit;
      expect(child.exitCode).toBe(null);
    }
    expect(await store.statBlob(key)).toBe(undefined);

    const resumed = await store.resumeUpload(key, upload.token);
    const result = await pool.copyDisk({ ...copy, sink: resumed!.sink, signal });
    expect(result.resumedSegments).toBeGreaterThan(0);
    await resumed!.finish(result.storedBytes);
    expect(await store.statBlob(key)).toMatchObject({ sizeBytes: result.storedBytes });
    const chain = [{ source: store.source(key), storedBytes: result.storedBytes, segments: result.segments }];
    await restored(chain, folder.path, live, 'restored.qcow2');

    const rewrittenKey = 'vm/disk-0/full.rewritten.qcow2';
    const rewriting = await store.createUpload(rewrittenKey, { expectedBytes: 0 });
    const rewritten = await pool.rewriteFile({
      chain,
      virtualSizeBytes: SIZE,
      compression: 'zstd',
      sink: rewriting.sink,
      finish: async (storedBytes) => {
        await rewriting.finish(storedBytes);
        return store.source(rewrittenKey);
      },
      signal,
    });
    expect(rewritten.storedBytes).toBeLessThan(result.storedBytes);
    const { storedBytes, segments } = rewritten;
    await restored([{ source: store.source(rewrittenKey), storedBytes, segments }], folder.path, live, 'other.qcow2');
  });
});

async function restored(
  chain: Parameters<typeof pool.restoreDisk>[0]['chain'],
  folder: string,
  live: string,
  name: string,
): Promise<void> {
  const path = join(folder, name);
  await pool.restoreDisk({ chain, destination: { path, format: 'qcow2' }, virtualSizeBytes: SIZE, signal });
  await run('qemu-img', ['check', '-q', path]);
  await expectSameDisk(live, path);
}
