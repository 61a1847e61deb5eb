import { openRepository } from '../../repository/identity.ts';
import { changeManifest } from '../../repository/manifest.ts';
import { sealResult } from '../../repository/sealed-manifest.ts';
import { settingsOf } from '../../schemas/repository.ts';
import type { ValidationPlan, ValidationResult } from '../../schemas/validation.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';

export const createKeepValidation = ({ openStore }: HostDependencies) => ({
  /** Whether this host can read the backup's repository. @throws RepositoryUnavailable, RepositoryForeign */
  async seesRepository({ repository }: Pick<ValidationPlan, 'repository'>): Promise<void> {
    await openRepository(openStore(repository.location), repository);
  },

  /** Writes what a validation found into the backup's manifest. Repeatable. */
  async keepValidation(plan: ValidationPlan, result: ValidationResult): Promise<void> {
    await withHeartbeat('writing the manifest', async () => {
      const store = openStore(plan.repository.location);
      await openRepository(store, plan.repository);
      const { encryption } = settingsOf(plan.repository);
      const kept = encryption === null ? result : await sealResult(result, encryption);
      await changeManifest(store, { vmUuid: plan.vm.uuid, backupId: plan.backupId }, (before) => ({
        ...before,
        validation: result.state,
        validationResult: kept,
      }));
    });
  },
});
