import { ApplicationFailure, condition, defineSignal, setHandler } from '@temporalio/workflow';
import type { AdmissionRequest } from '../schemas/catalog.ts';
import { controlActivities } from './activity-proxies.ts';
import type { OperationView } from './operation-view.ts';

/** Sent by whoever released what this operation waited for. It asks again then; a lost signal costs only time. */
export const admissionSignal = defineSignal('admissionGranted');

const ASK_AGAIN_SECONDS = [5, 10, 20, 30, 60];

/**
 * Waits until the operation has, all at once, what it asks for; meanwhile shows what it waits for.
 * @param before fails with `WindowClosed` when it does not have it by then
 */
export async function admitted(request: AdmissionRequest, view: OperationView, before?: string): Promise<void> {
  const control = controlActivities();
  let signalled = false;
  setHandler(admissionSignal, () => void (signalled = true));
  for (let round = 0; ; round += 1) {
    const answer = await control.requestAdmission(request);
    if (answer.granted) return;
    view.waitingFor(answer.waitingFor);
    const seconds = ASK_AGAIN_SECONDS[Math.min(round, ASK_AGAIN_SECONDS.length - 1)] ?? 60;
    const leftMs = before === undefined ? Infinity : Date.parse(before) - Date.now();
    if (leftMs <= 0) {
      throw ApplicationFailure.create({
        type: 'WindowClosed',
        nonRetryable: true,
        message: `not begun before its window ended at ${before ?? ''}: ${answer.waitingFor}`,
      });
    }
    await condition(() => signalled, Math.min(seconds * 1000, leftMs));
    signalled = false;
  }
}
