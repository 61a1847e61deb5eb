import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { lastAsked } from '../../operations/worker-state.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import type { CommandContext } from '../context.ts';
import { fail, ok, warn, type Check, type Finding } from './check.ts';

const SANE_FROM = Date.UTC(2025, 0, 1);
const SANE_UNTIL = Date.UTC(2100, 0, 1);
const APART_MS = 5_000;

/** Instants name files and order backups: a clock that is wrong, or jumps back, mixes them up. */
export const checkClock: Check = async ({ context }) => {
  const now = Date.now();
  if (now < SANE_FROM || now > SANE_UNTIL) {
    return [fail('clock', `it shows ${new Date(now).toISOString()}: set it, and let NTP keep it`)];
  }
  return [await comparedWithTemporal(context), await synchronized()].flatMap((finding) => finding ?? []);
};

/** Temporal dates each request of a worker: one from the future was dated by another clock. */
async function comparedWithTemporal(context: CommandContext): Promise<Finding> {
  const here = new Date().toISOString();
  try {
    const last = await lastAsked(await context.client(), CONTROL_QUEUE, 'workflows');
    const behindMs = (last ?? 0) - Date.now();
    if (behindMs > APART_MS) {
      return warn('clock', `${here}, ${Math.round(behindMs / 1000)} s behind Temporal's; use NTP on both`);
    }
    return ok('clock', here);
  } catch {
    return ok('clock', `${here}; not compared with Temporal's, which does not answer`);
  }
}

async function synchronized(): Promise<Finding | undefined> {
  try {
    const { stdout } = await promisify(execFile)('timedatectl', ['show', '--property=NTPSynchronized', '--value'], {
      timeout: 3_000,
    });
    if (stdout.trim() === 'yes') return ok('ntp', 'the clock is synchronized');
    if (stdout.trim() === 'no')
      return warn('ntp', 'the clock is not synchronized: enable NTP, timedatectl set-ntp true');
  } catch {
    // No systemd here: it cannot be told.
  }
  return undefined;
}
