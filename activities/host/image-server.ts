import { readFile, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CommandFailed, runCommand } from '../run-command.ts';

/** A `qemu-nbd` that serves one stopped image, read-only. It outlives the worker, like the job of a running VM does. */
export interface ImageServer {
  socketPath: string;
  pidFile: string;
}

/** Connections it takes at once: a copy has one per thread, and reconnects. */
const CONNECTIONS = 16;
const END_AFTER_MS = 10_000;

/**
 * Starts it. `force-share`: it takes no lock, so that the VM's start is not blocked; whoever reads must look afterwards
 * whether the VM was started meanwhile.
 * @param bitmap exported as metadata context `qemu:dirty-bitmap:<bitmap>`
 */
export async function startImageServer(
  image: { path: string; format: string; exportName: string; bitmap: string | null },
  server: ImageServer,
  options: { signal: AbortSignal },
): Promise<void> {
  const { socketPath, pidFile } = server;
  await rm(socketPath, { force: true });
  await serveInBackground(
    [
      'qemu-nbd',
      ...['--fork', '--persistent', '--read-only', '--shared', String(CONNECTIONS)],
      ...['--pid-file', pidFile, '--socket', socketPath, '--export-name', image.exportName],
      ...(image.bitmap === null ? [] : ['--bitmap', image.bitmap]),
      '--image-opts',
      `driver=${image.format},force-share=on,file.driver=file,file.filename=${image.path.replaceAll(',', ',,')}`,
    ],
    server,
    options,
  );
}

/**
 * Starts a server of frozen images that lie on one another, with the depth at which each stretch is allocated. Their order
 * and formats are given: no header is asked.
 * @param layers the uppermost first
 */
export async function startChainServer(
  { layers, exportName }: { layers: readonly { path: string; format: string }[]; exportName: string },
  server: ImageServer,
  options: { signal: AbortSignal },
): Promise<void> {
  const { socketPath, pidFile } = server;
  await rm(socketPath, { force: true });
  const images: string[] = [];
  for (const [depth, { path, format }] of layers.entries()) {
    const at = 'backing.'.repeat(depth);
    const driver = (await stat(path)).isBlockDevice() ? 'host_device' : 'file';
    images.push(`${at}driver=${format},${at}file.driver=${driver},${at}file.filename=${path.replaceAll(',', ',,')}`);
  }
  await serveInBackground(
    [
      'qemu-nbd',
      ...['--fork', '--persistent', '--read-only', '--allocation-depth', '--shared', String(CONNECTIONS)],
      ...['--pid-file', pidFile, '--socket', socketPath, '--export-name', exportName],
      ...['--image-opts', `force-share=on,${images.join(',')}`],
    ],
    server,
    options,
  );
}

/**
 * Runs a `qemu-nbd --fork`. One that only had to warn of something (a bitmap that it dropped) ends with 1, though its server
 * serves: whether there is one decides.
 */
export async function serveInBackground(
  command: [string, ...string[]],
  server: ImageServer,
  options: { signal: AbortSignal },
): Promise<void> {
  try {
    await runCommand(command, options);
  } catch (error) {
    if (!(error instanceof CommandFailed) || (await imageServerPid(server)) === undefined) throw error;
  }
}

/** The server's process id; undefined when it does not run any more. */
export async function imageServerPid({ pidFile, socketPath }: ImageServer): Promise<number | undefined> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  // The id may have gone to somebody else: its command line names our socket.
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return commandLine.split('\0').includes(socketPath) ? pid : undefined;
}

/** Ends it and waits until it is gone. Nothing to do when it does not run. */
export async function endImageServer(server: ImageServer): Promise<void> {
  const deadline = Date.now() + END_AFTER_MS;
  for (let pid = await imageServerPid(server); pid !== undefined; pid = await imageServerPid(server)) {
    try {
      process.kill(pid, Date.now() > deadline ? 'SIGKILL' : 'SIGTERM');
    } catch {
      break; // gone in this moment
    }
    await sleep(20);
  }
  await rm(server.socketPath, { force: true });
  await rm(server.pidFile, { force: true });
}

/** Changes when an image is written to: size, and times in nanoseconds. */
export async function imageStamp(path: string): Promise<string> {
  const { size, mtimeNs, ino, dev } = await stat(path, { bigint: true });
  return `${dev}:${ino}:${size}:${mtimeNs}`;
}
