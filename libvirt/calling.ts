import type { CallOptions } from './connection.ts';
import { isLibvirtError } from './errors.ts';

/** These may wait for a guest, for QEMU or for another job, half a minute and more. */
const SLOW_TIMEOUT_MS = 180_000;

/** Options of a call that may take long. */
export const slow = (call: CallOptions = {}): CallOptions => ({
  ...call,
  timeoutMs: call.timeoutMs ?? SLOW_TIMEOUT_MS,
});

/** The flags whose condition is true. */
export const bits = (...choices: (readonly [wanted: boolean | undefined, bit: number])[]): number =>
  choices.reduce((all, [wanted, bit]) => (wanted === true ? all | bit : all), 0);

/** Undefined in place of the error that says there is no such thing. */
export async function absent<T>(code: number, look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (isLibvirtError(error, code)) return undefined;
    throw error;
  }
}
