import type { RestorePlan } from '../schemas/restore-plan.ts';

/** For the result of a restore: which copy was read, where it was not the backup in its own repository. */
export const copyRead = ({ repository, home }: Pick<RestorePlan, 'repository' | 'home'>): { repository?: string } =>
  home === undefined || home === repository.name ? {} : { repository: repository.name };
