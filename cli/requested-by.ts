import { hostname, userInfo } from 'node:os';

/** Who asks, for the record of what was done: `cli:root@kvm-1`. At most 200 characters, as requests take it. */
export const requestedBy = (): string => `cli:${userName()}@${hostname()}`.slice(0, 200);

/** The number of a user that the system has no name for, as in a container. */
function userName(): string {
  try {
    return userInfo().username;
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ERR_SYSTEM_ERROR')) throw error;
    return String(process.getuid?.() ?? '');
  }
}
