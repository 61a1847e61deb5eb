import { chmod, mkdtemp, rm } from 'node:fs/promises';

/** A folder that is gone when its scope ends. */
export interface TempDir extends AsyncDisposable {
  readonly path: string;
}

/**
 * A new folder with a short path: the path of a unix socket must stay below 108 bytes, and libvirt's own lie deep. Open to
 * all, so that daemons of other users get in.
 */
export async function tempDir(prefix = 'hf'): Promise<TempDir> {
  const path = await mkdtemp(`/tmp/${prefix}-`);
  await chmod(path, 0o755);
  return {
    path,
    async [Symbol.asyncDispose]() {
      await rm(path, { recursive: true, force: true, maxRetries: 3 });
    },
  };
}
