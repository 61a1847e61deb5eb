import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { HoldfastError } from '../schemas/failures.ts';
import { holdfastVersion } from '../workers/version.ts';
import { isLoopback, parseListen } from './listen-address.ts';
import { createApi } from './server.ts';
import type { Services } from './routes.ts';

export interface RunApiOptions {
  /** `127.0.0.1:7070`, `[::1]:7070`; port 0 takes a free one. */
  listen: string;
  tokenFile: string | undefined;
  signal: AbortSignal;
  log: (line: string) => void;
}

/**
 * Serves the API until the signal.
 * @throws HoldfastError InvalidRequest when it would listen beyond this machine without a token
 */
export async function runApi(services: Services, { listen, tokenFile, signal, log }: RunApiOptions): Promise<void> {
  const { host, port } = parseListen(listen);
  const token = await readToken(tokenFile);
  if (token === undefined && !isLoopback(host)) {
    throw new HoldfastError(
      'InvalidRequest',
      `listen: ${host} is not this machine alone: give a token, in HOLDFAST_API_TOKEN or with --token-file`,
    );
  }
  const server = createApi({ ...services, token, version: holdfastVersion() });
  server.listen(port, host);
  await once(server, 'listening', { signal });
  const bound = server.address() as AddressInfo;
  log(`API: http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`);
  log(`api ready${token === undefined ? ', without a token: whoever is on this machine may use it' : ''}`);
  if (!signal.aborted) await once(signal, 'abort');
  server.close();
  server.closeAllConnections();
  await once(server, 'close');
}

/** Never from arguments, which every user of the machine can read. */
async function readToken(file: string | undefined): Promise<string | undefined> {
  const token = (file === undefined ? process.env['HOLDFAST_API_TOKEN'] : await readTokenFile(file))?.trim();
  if (token === undefined || (token === '' && file === undefined)) return undefined;
  if (token.length >= 16 && !/\s/.test(token)) return token;
  throw new HoldfastError('InvalidRequest', 'token: must have at least 16 characters and no white space');
}

const readTokenFile = async (file: string): Promise<string> =>
  await readFile(file, 'utf8').catch((error: unknown) => {
    throw new HoldfastError('InvalidRequest', `token-file: ${file} cannot be read`, { cause: error });
  });
