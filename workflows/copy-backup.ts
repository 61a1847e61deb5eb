import { ApplicationFailure, ContinueAsNew, continueAsNew, isCancellation } from '@temporalio/workflow';
import type { CopiedVm } from '../schemas/copy.ts';
import { copyBackupRequest, type CopyBackupRequest } from '../schemas/requests.ts';
import { copyInOrder } from './copy-in-order.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';

/** Copies a backup to another repository, those first that it is built on and that are not there. */
export async function copyBackup(request: CopyBackupRequest, carried?: CopiedVm): Promise<CopiedVm> {
  const asked = parseRequest(copyBackupRequest, 'copyBackup', request);
  const { backupId, to, dryRun = false, decrypt = false, timeLimitSeconds = null } = asked;
  const view = new OperationView('copyBackup', '');
  view.about({ repository: to, backupId });
  try {
    const copied = await copyInOrder(
      { to, what: { backupId }, decrypt },
      { dryRun, timeLimitSeconds },
      view,
      carried,
      (done) => continueAsNew<typeof copyBackup>(asked, done),
    );
    const [problem] = copied.problems;
    if (problem !== undefined) {
      throw ApplicationFailure.create({ type: problem.type, nonRetryable: true, message: problem.message });
    }
    view.ended('done', dryRun ? 'a dry run: nothing was copied' : `${copied.copied.length} backups copied to ${to}`);
    return copied;
  } catch (error) {
    if (!(error instanceof ContinueAsNew)) view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}
