import { loadClientConnectConfig } from '@temporalio/envconfig';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { configuration, devState, type DevState, type ReportSettings } from '../schemas/configuration.ts';
import { HoldfastError } from '../schemas/failures.ts';

/** Where an installation keeps its things, and where its services are. */
export interface Installation {
  dataDir: string;
  catalogUrl: string;
  temporal: TemporalOptions;
  heartbeatSeconds: number;
  report: ReportSettings;
  /** The development installation that runs, or ran, in this folder. */
  dev: DevState | undefined;
}

export interface TemporalOptions {
  address: string;
  namespace: string;
  /** API key, TLS: from Temporal's own profile file and TEMPORAL_* variables; never from arguments. */
  connection: Record<string, unknown>;
}

/**
 * Reads an installation's folder. Environment variables go before `config.json`, that before what `holdfast dev` noted.
 * @throws HoldfastError InvalidRequest naming the field of a bad configuration
 */
export async function openInstallation(dataDir: string | undefined): Promise<Installation> {
  const folder = resolve(dataDir ?? process.env['HOLDFAST_DATA'] ?? '.holdfast');
  const config = (await readOptional(join(folder, 'config.json'), configuration)) ?? {};
  const dev = await readOptional(devStatePath(folder), devState);
  const { connectionOptions, namespace } = loadClientConnectConfig();
  const { address: profileAddress, ...connection } = { ...connectionOptions };
  const fromEnvironment = process.env['TEMPORAL_ADDRESS'] === undefined ? undefined : profileAddress;
  const webhook = process.env['HOLDFAST_REPORT_WEBHOOK'];
  const heartbeat = process.env['HOLDFAST_HEARTBEAT_SECONDS'];
  return {
    dataDir: folder,
    catalogUrl: process.env['HOLDFAST_CATALOG'] ?? config.catalog ?? `sqlite:${join(folder, 'catalog.sqlite')}`,
    temporal: {
      address:
        fromEnvironment ?? config.temporal?.address ?? dev?.temporalAddress ?? profileAddress ?? 'localhost:7233',
      namespace: process.env['TEMPORAL_NAMESPACE'] ?? config.temporal?.namespace ?? namespace ?? 'default',
      connection,
    },
    heartbeatSeconds: heartbeat === undefined ? (config.heartbeatSeconds ?? 60) : secondsOf(heartbeat),
    report: {
      ...config.report,
      ...(webhook === undefined ? {} : { webhook }),
    },
    dev,
  };
}

export const devStatePath = (dataDir: string): string => join(dataDir, 'run', 'dev.json');

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (Number.isInteger(seconds) && seconds > 0 && seconds <= 3600) return seconds;
  throw new HoldfastError('InvalidRequest', `HOLDFAST_HEARTBEAT_SECONDS: ${text} is no whole number from 1 to 3600`);
}

async function readOptional<T>(
  path: string,
  schema: { safeParse(data: unknown): { success: true; data: T } | { success: false; error: Error } },
): Promise<T | undefined> {
  const content = await readFile(path, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (content === undefined) return undefined;
  let data: unknown;
  try {
    data = JSON.parse(content);
  } catch (error) {
    throw new HoldfastError('InvalidRequest', `${path} is no JSON: ${String(error)}`, { cause: error });
  }
  const parsed = schema.safeParse(data);
  if (parsed.success) return parsed.data;
  throw new HoldfastError('InvalidRequest', `${path}: ${parsed.error.message}`, { cause: parsed.error });
}
