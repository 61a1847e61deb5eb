import { ApplicationFailure, uuid4 } from '@temporalio/workflow';
import type { Merge, MergedChain } from '../schemas/merge-plan.ts';
import { mergeBackupsRequest, type MergeBackupsRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { sweep } from './delete-under-admission.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { rewriteUnderAdmission, type RewriteOrder } from './rewrite-under-admission.ts';
import { thisRun } from './this-run.ts';

/**
 * Merges the oldest increments of a VM's chain with the full beneath them, one after the other: the increment becomes the chain's
 * full, with the same content, and the former full goes.
 */
export async function mergeBackups(request: MergeBackupsRequest): Promise<MergedChain> {
  const asked = parseRequest(mergeBackupsRequest, 'mergeBackups', request);
  const view = new OperationView('mergeBackups', asked.vm);
  try {
    view.step('looking at the chain');
    const first = await plan(asked);
    view.about({ vm: first.chain.vm, repository: first.chain.repository });
    const { merges: meant, blocked, dryRun } = first.chain;
    if (meant.length === 0) throw nothingToMerge(first.chain);
    if (dryRun) {
      view.ended('done', 'a dry run: nothing was merged');
      return first.chain;
    }
    const done: Merge[] = [];
    let next = first;
    for (const merge of meant) {
      // Planned anew each time: between two merges others may have worked on the chain.
      if (done.length > 0) next = await plan({ ...asked, keep: undefined });
      const [now] = next.chain.merges;
      if (next.next === null || now?.full.id !== merge.full.id || now.into.id !== merge.into.id) break;
      await mergeOne(next.chain, merge, next.next, view);
      done.push(merge);
    }
    view.ended('done', `${done.length} merged`);
    return { ...first.chain, merges: done, blocked: done.length < meant.length ? next.chain.blocked : blocked };
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  }
}

const plan = (asked: MergeBackupsRequest): Promise<{ chain: MergedChain; next: RewriteOrder | null }> =>
  controlActivities().planMerges(uuid4(), asked, thisRun());

const nothingToMerge = ({ vm, blocked }: MergedChain): ApplicationFailure =>
  ApplicationFailure.create({
    type: 'NothingToMerge',
    nonRetryable: true,
    message: `VM ${vm.name}: ${blocked ?? 'its chain has no increments, or no more backups than are to be kept'}`,
  });

async function mergeOne(
  chain: MergedChain,
  { full, into }: Merge,
  order: RewriteOrder,
  view: OperationView,
): Promise<void> {
  const control = controlActivities();
  await rewriteUnderAdmission(
    order,
    view,
    async (swapped, host) => {
      if (swapped === null) return;
      await control.commitRewrite(order.plan, swapped, swapped.compression === 'zstd' ? 'Compressed' : null);
      const former = await control.planFormerFull(chain, full.id);
      if (former !== null) await sweep(former, host, order.plan.repository, view);
    },
    () => control.requireMergeable(chain, full.id, into.id),
  );
}
