import { Client, Connection } from '@temporalio/client';
import type { TemporalOptions } from './installation.ts';

/** A connection for starting and asking workflows. */
export async function connectClient({ address, namespace, connection }: TemporalOptions): Promise<Client> {
  return new Client({
    connection: await Connection.connect({ ...connection, address, connectTimeout: '3s' }),
    namespace,
  });
}
