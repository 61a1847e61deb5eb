import { randomBytes } from 'node:crypto';

/** A run's id as an operator reads it in the UI: `takeBackup-web-1-20261121-120000-3f2c`. */
export function runId(operation: string, subject: string): string {
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');
  return `${operation}-${subject}-${stamp}-${randomBytes(2).toString('hex')}`;
}
