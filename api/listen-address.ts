import { isIP } from 'node:net';
import { HoldfastError } from '../schemas/failures.ts';

/** @throws HoldfastError InvalidRequest */
export function parseListen(listen: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(listen);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) {
    throw new HoldfastError('InvalidRequest', `listen: "${listen}" is no address and port, like 127.0.0.1:7070`);
  }
  return { host: match[1] ?? match[2] ?? '', port };
}

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
