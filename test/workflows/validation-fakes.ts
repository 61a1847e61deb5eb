import type { BootedBackup } from '../../activities/host/boot-backup.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { ValidationPlan, ValidationResult } from '../../schemas/validation.ts';
import { backupOf, planOf, repository, VM } from './fakes.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

export const VALIDATED_ID = '2f31b7a4-8c1e-4e0e-9d53-6c2b6b0d7c11';
export const VALIDATE_REQUEST = { backupId: VALIDATED_ID };
const GIB = 1024 ** 3;
export const ROOM = { neededBytes: GIB, freeBytes: 2 * GIB, totalBytes: 4 * GIB };

export const booted: BootedBackup = {
  kind: 'tried',
  steps: [
    { step: 'boot', result: 'passed', detail: 'the guest agent answered after 3.0 s', durationMs: 3000 },
    { step: 'screenshot', result: 'passed', detail: 'kept', durationMs: 10 },
  ],
  bootMs: 3000,
  screenshot: `${VM.uuid}/validation/${VALIDATED_ID}.png`,
};

/** Steps of a validation that goes well; a test replaces those that do not. */
export const validationSteps = (): FakeActivities => ({
  planValidation: (...[validationId, , run]: [string, unknown, { workflowId: string; runId: string }]) => {
    const plan: ValidationPlan = {
      validationId,
      backupId: VALIDATED_ID,
      vm: VM,
      repository,
      steps: ['hash', 'boot', 'screenshot'],
      command: null,
      bootTimeoutSeconds: 240,
      endChain: false,
      ...run,
    };
    const admission: AdmissionRequest = {
      operationId: validationId,
      operation: 'validateBackup',
      ...run,
      vmUuid: null,
      chain: { id: VALIDATED_ID, mode: 'shared' },
      host: null,
      repository: null,
      tenant: 'default',
      priority: 3,
    };
    return Promise.resolve({ plan, admission, hosts: [HOST], heartbeatSeconds: 5 });
  },
  requestAdmission: () => Promise.resolve(GRANTED),
  beginValidation: () => Promise.resolve(),
  validationRoom: () => Promise.resolve(ROOM),
  hashBackup: () => Promise.resolve({ files: 2, verifiedBytes: 4096, problems: [] }),
  bootBackup: () => Promise.resolve(booted),
  keepValidation: () => Promise.resolve(),
  commitValidation: (...[, result]: [unknown, ValidationResult]) =>
    Promise.resolve({ ...backupOf(planOf(VALIDATED_ID)), validation: result.state }),
  endThrowAwayVm: () => Promise.resolve(),
  restoreValidation: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});
