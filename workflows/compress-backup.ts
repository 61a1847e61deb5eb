import { uuid4 } from '@temporalio/workflow';
import type { Backup } from '../schemas/backup.ts';
import { compressBackupRequest, type CompressBackupRequest } from '../schemas/requests.ts';
import type { CompressionOutcome } from '../schemas/rewrite-plan.ts';
import { controlActivities } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { rewriteUnderAdmission } from './rewrite-under-admission.ts';
import { thisRun } from './this-run.ts';

export type CompressedBackup = Backup & { compressionResult: CompressionOutcome };

/** Compresses a stored backup after the fact: rewrites its files beside, compares them, swaps them in. */
export async function compressBackup(request: CompressBackupRequest): Promise<CompressedBackup> {
  const asked = parseRequest(compressBackupRequest, 'compressBackup', request);
  const control = controlActivities();
  const view = new OperationView('compressBackup', asked.backupId);
  view.step('looking for the backup');
  const order = await control.planCompression(uuid4(), asked, thisRun()).catch((error: unknown) => {
    view.ended('failed', causeOf(error));
    throw error;
  });
  const { plan, done } = order;
  view.about({ vm: plan.vm, repository: plan.repository.name, backupId: plan.backupId });
  if (done !== null) {
    view.ended('done', `backup ${done.id} is compressed already`);
    const { storedBytes } = done;
    return {
      ...done,
      compressionResult: { outcome: 'already-compressed', beforeBytes: storedBytes, afterBytes: storedBytes },
    };
  }
  return await rewriteUnderAdmission(order, view, async (swapped) => {
    const backup =
      swapped === null
        ? await control.keepFiles(plan)
        : await control.commitRewrite(plan, swapped, swapped.compression === 'zstd' ? 'Compressed' : 'None');
    const compressionResult: CompressionOutcome = {
      outcome: swapped === null ? 'not-smaller' : 'compressed',
      beforeBytes: order.storedBytes,
      afterBytes: backup.storedBytes,
    };
    view.ended('done', outcomeText(backup, compressionResult));
    return { ...backup, compressionResult };
  });
}

const outcomeText = ({ id }: Backup, { outcome, beforeBytes, afterBytes }: CompressionOutcome): string =>
  outcome === 'compressed'
    ? `backup ${id} is compressed: ${beforeBytes} bytes before, ${afterBytes} after`
    : `backup ${id} does not get smaller, its files stay`;
