import { statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openRepository } from '../../repository/identity.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { placeText, type RepositoryRecord } from '../../schemas/repository.ts';
import { sizeText } from '../output.ts';
import { fail, ok, PATIENCE, reason, warn, type Check, type Finding } from './check.ts';

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
      return [warn('repository', 'none yet; add one: holdfast repo add PLACE, or start holdfast dev')];
    }
    return await Promise.all(
      repositories.map((record) => {
        const { name, location } = record;
        if (location.kind === 's3') return bucket(record);
        return space(`repository ${name}`, location.path, 'free some, or add another: holdfast repo add PLACE', true);
      }),
    );
  } catch (error) {
    return [fail('repository', `the catalog cannot be read: ${reason(error)}`)];
  }
};

/** Whether this host gets at what lies in a bucket; how much room there is S3 does not tell. */
async function bucket(record: RepositoryRecord): Promise<Finding> {
  const name = `repository ${record.name}`;
  const silence = delay(PATIENCE.timeoutMs, undefined, { ref: false }).then(() => {
    throw new Error(`${placeText(record.location)} does not answer within ${PATIENCE.timeoutMs / 1000} seconds`);
  });
  return await Promise.race([openRepository(openBlobStore(record.location), record), silence]).then(
    () => ok(name, `${placeText(record.location)} answers`),
    (error: unknown) => fail(name, `${reason(error)}; try holdfast repo check-access ${record.name}`),
  );
}

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
