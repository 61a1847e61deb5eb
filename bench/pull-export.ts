import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Guest } from '../test/support/guest.ts';
import type { Bench } from './harness.ts';

/** A pull-mode backup job of a VM without a checkpoint: what a copier reads, for one that is no backup tool. */
export interface PullExport extends AsyncDisposable {
  socketPath: string;
}

export async function withPullExport({ host, folder }: Bench, { libvirt, dom }: Guest): Promise<PullExport> {
  const socketPath = join(host.dir, 'pull.sock');
  const scratch = join(folder, 'pull.scratch');
  await rm(socketPath, { force: true });
  await libvirt.backupBegin(
    dom,
    `<domainbackup mode='pull'><server transport='unix' socket='${socketPath}'/><disks>` +
      `<disk name='vda' backup='yes' type='file' exportname='vda'><scratch file='${scratch}'/></disk>` +
      `</disks></domainbackup>`,
    undefined,
  );
  return {
    socketPath,
    async [Symbol.asyncDispose]() {
      await libvirt.abortJob(dom);
      while ((await libvirt.backupXml(dom)) !== undefined) await delay(20);
      await rm(scratch, { force: true });
    },
  };
}
