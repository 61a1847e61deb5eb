import type { CopierPool } from './contract.ts';
import { copyDisk } from './copy-disk.ts';
import { recryptFile } from './recrypt-file.ts';
import { restoreDisk } from './restore-disk.ts';
import { rewriteFile } from './rewrite-file.ts';
import { ThreadPool } from './thread-pool.ts';
import { transferFile } from './transfer-file.ts';
import { verifyFile } from './verify-file.ts';

/**
 * Threads that move the bytes of all disks of one process.
 * @param threads Default 2: more do not help one disk, because its NBD server is one thread; a worker with many data slots
 * and cores may take more. Each costs about 30 MB.
 */
export function createCopierPool({ threads = 2 }: { threads?: number } = {}): CopierPool {
  const pool = new ThreadPool({ threads });
  return {
    copyDisk: (options) => copyDisk(pool, options),
    recryptFile: (options) => recryptFile(pool, options),
    restoreDisk: (options) => restoreDisk(pool, options),
    rewriteFile: (options) => rewriteFile(pool, options),
    transferFile: (options) => transferFile(pool, options),
    verifyFile: (file, options) => verifyFile(pool, file, options),
    [Symbol.asyncDispose]: () => pool[Symbol.asyncDispose](),
  };
}
