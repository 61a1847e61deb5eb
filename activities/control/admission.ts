import type { AdmissionAnswer } from '../../catalog/contract.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { ControlDependencies } from './dependencies.ts';

/** Gives back what an operation was granted and tells those who waited for it. Repeatable. */
export async function releaseAdmissionOf({ catalog, runs }: ControlDependencies, operationId: string): Promise<void> {
  for (const granted of await catalog.admissions.release(operationId)) {
    await runs.signalGranted(granted.workflowId, granted.runId);
  }
}

export const createAdmission = (dependencies: ControlDependencies) => {
  const { catalog, runs } = dependencies;
  const release = (operationId: string): Promise<void> => releaseAdmissionOf(dependencies, operationId);

  return {
    /**
     * Asks for all that an operation needs, at once. A lease whose run has ended, however it ended, is taken from it:
     * a terminated run cannot keep one.
     */
    async requestAdmission(request: AdmissionRequest): Promise<AdmissionAnswer> {
      const answer = await catalog.admissions.request(request);
      if (answer.granted) return answer;
      let freed = false;
      for (const { workflowId, runId, operationId } of answer.blockers) {
        if (await runs.isRunning(workflowId, runId)) continue;
        // A VM that runs on a backup stays what nobody else may touch until a successor has made it independent.
        if ((await catalog.consolidations.find(operationId)) !== undefined) continue;
        await release(operationId);
        freed = true;
      }
      return freed ? await catalog.admissions.request(request) : answer;
    },

    /** Gives everything back and tells those who waited for it. Repeatable. */
    async releaseAdmission(operationId: string): Promise<void> {
      await release(operationId);
    },
  };
};
