import type { Libvirt } from '../../libvirt/libvirt.ts';
import type { CommandContext } from '../context.ts';

export type CheckState = 'ok' | 'warn' | 'fail';

/** What the doctor says of one thing: `warn` = works, but not all or not well; `fail` = backups do not work. */
export interface Finding {
  name: string;
  state: CheckState;
  /** What was found, and what to do about it. */
  message: string;
}

/** What is examined. */
export interface Patient {
  context: CommandContext;
  libvirt: Libvirt;
  /** The socket's path; undefined for a libvirt on another machine. */
  socketPath: string | undefined;
  host: string;
}

/** Examines one subject. It never throws: what it cannot find out is a finding. */
export type Check = (patient: Patient) => Promise<Finding[]>;

export const ok = (name: string, message: string): Finding => ({ name, state: 'ok', message });
export const warn = (name: string, message: string): Finding => ({ name, state: 'warn', message });
export const fail = (name: string, message: string): Finding => ({ name, state: 'fail', message });

/** A daemon that hangs must not hang the doctor. */
export const PATIENCE = { timeoutMs: 10_000 };

export const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));
