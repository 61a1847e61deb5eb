import { statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { placeText } from '../../schemas/repository.ts';
import { sizeText } from '../output.ts';
import { fail, ok, reason, warn, type Check, type Finding } from './check.ts';

const LITTLE_BYTES = 10 * 1024 ** 3;
const TOO_LITTLE_BYTES = 256 * 1024 ** 2;

/** Room for what guests overwrite during a backup: as much as they write until its copy is done. */
export const checkScratch: Check = async ({ context, host }) => {
  const folder = join(context.installation.dataDir, 'hosts', host, 'scratch');
  return [await space('scratch', folder, 'give the worker a roomier folder with --scratch')];
};

/** Room in the repositories. */
export const checkRepositories: Check = async ({ context }) => {
  try {
    const repositories = await (await context.catalog()).repositories.list();
    if (repositories.length === 0) {
      return [warn('repository', 'none yet; add one: holdfast repo add DIRECTORY, or start holdfast dev')];
    }
    return await Promise.all(
      repositories.map(({ name, location }) =>
        location.kind === 'directory'
          ? space(`repository ${name}`, location.path, 'free some, or add another: holdfast repo add DIRECTORY', true)
          : Promise.resolve(ok(`repository ${name}`, placeText(location))),
      ),
    );
  } catch (error) {
    return [fail('repository', `the catalog cannot be read: ${reason(error)}`)];
  }
};

/** @param mustExist else the nearest folder above it that is there is asked */
async function space(name: string, folder: string, remedy: string, mustExist = false): Promise<Finding> {
  for (let at = folder; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      const freeBytes = bavail * bsize;
      const message = `${sizeText(freeBytes)} free in ${folder}`;
      if (freeBytes < TOO_LITTLE_BYTES) return fail(name, `${message}: too little; ${remedy}`);
      return freeBytes < LITTLE_BYTES ? warn(name, `${message}: little for busy VMs; ${remedy}`) : ok(name, message);
    } catch (error) {
      if (mustExist || at === dirname(at)) return fail(name, `${reason(error)}; is it mounted?`);
    }
  }
}
