import { runGateway } from './run-gateway.ts';

/**
 * A process of its own beside a host worker: serves the disks of a backup to QEMU, which must not notice when the worker
 * ends. Started by activities/host/gateways.ts with its output in a log.
 * Usage: node gateway/main.ts SPEC-FILE
 */
const stop = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => stop.abort());
process.on('SIGHUP', () => undefined);
const log = (line: string): void => void process.stdout.write(`${new Date().toISOString()} ${line}\n`);
try {
  await runGateway(process.argv[2] ?? '', stop.signal, log);
} catch (error) {
  log(`failed: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
