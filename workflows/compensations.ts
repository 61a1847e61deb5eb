import { CancellationScope, log } from '@temporalio/workflow';

/** The undo steps of one run. Each is idempotent and succeeds when there is nothing to undo. */
export class Compensations {
  readonly #steps: { name: string; undo: () => Promise<void> }[] = [];

  /** Call before the act: an activity that timed out may still have acted. */
  add(name: string, undo: () => Promise<void>): void {
    this.#steps.push({ name, undo });
  }

  /** Runs every step, newest first, also after cancellation and also when one of them fails. Returns what failed. */
  async run(): Promise<{ step: string; error: unknown }[]> {
    const failed: { step: string; error: unknown }[] = [];
    await CancellationScope.nonCancellable(async () => {
      for (const { name, undo } of this.#steps.toReversed()) {
        await undo().catch((error: unknown) => {
          log.error('compensation failed', { step: name, error });
          failed.push({ step: name, error });
        });
      }
    });
    return failed;
  }
}
