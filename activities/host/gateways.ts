import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ENVIRONMENT, NODE_FLAGS } from '../../gateway/small-process.ts';
import { gatewaySpec, type GatewaySpec } from '../../gateway/spec.ts';
import { GATEWAY_LOCK, gatewayStatus, LOG_FILE, SPEC_FILE, STATUS_FILE } from '../../gateway/status.ts';
import { listNbdExports } from '../../nbd/connection.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { uuid } from '../../schemas/names.ts';
import { identityOf } from '../process-identity.ts';
import type { HostState } from './host-state.ts';
import { isNotFound, listIds, readJson, writeJson } from './json-notes.ts';

/** Opening all chains of a backup takes reads from a repository that may be far away. */
const READY_WITHIN_MS = 60_000;
const END_AFTER_MS = 5000;
const ANSWER_WITHIN_MS = 10_000;
const LOOK_EVERY_MS = 20;
const LOG_TAIL_BYTES = 2000;

/**
 * The gateways of a host: processes that serve backups to QEMU, each under the id of the restore or validation it is for.
 * What one serves is noted in a folder of its own, and it runs for as long as that folder says so: a worker that starts
 * again finds it there, and begins it anew on the same sockets when its process is gone.
 */
export class Gateways {
  readonly #state: Pick<HostState, 'gatewaysFolder' | 'prepareSockets'>;
  readonly #root: string;
  /** One thing at a time with each of them. */
  readonly #busy = new Map<string, Promise<void>>();

  /** For each of them, on the host's disk: see `GatewaySpec`. */
  readonly diskCacheBytes: number;

  constructor(
    state: Pick<HostState, 'gatewaysFolder' | 'prepareSockets'>,
    { diskCacheBytes }: { diskCacheBytes: number },
  ) {
    this.#state = state;
    this.diskCacheBytes = diskCacheBytes;
    this.#root = state.gatewaysFolder;
  }

  #folder = (id: string): string => join(this.#root, uuid.parse(id));

  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  /** Notes what is to be served, and serves it. Repeatable; a gateway that serves something else under the id is ended. @throws GatewayFailed */
  async start(spec: GatewaySpec, { signal }: { signal: AbortSignal }): Promise<void> {
    const { id } = spec;
    const noted = await this.#spec(id);
    if (noted !== undefined && JSON.stringify(noted) !== JSON.stringify(gatewaySpec.parse(spec))) await this.end(id);
    await writeJson(this.#folder(id), SPEC_FILE, spec);
    await this.ensure(id, { signal });
  }

  /** Sees to it that a noted gateway answers. Repeatable; nothing to do when none is noted. @throws GatewayFailed */
  async ensure(id: string, { signal }: { signal: AbortSignal }): Promise<void> {
    await this.#alone(id, async () => {
      const spec = await this.#spec(id);
      if (spec === undefined || ((await this.#pid(id)) !== undefined && (await answers(spec)))) return;
      await this.#endProcess(id); // it hangs
      await this.#state.prepareSockets(id, spec.owner ?? undefined); // a reboot takes the folder away
      const child = await this.#spawn(id);
      const deadline = Date.now() + READY_WITHIN_MS;
      try {
        for (;;) {
          const isEnded = child.pid === undefined || child.exitCode !== null || child.signalCode !== null;
          if (!isEnded && (await answers(spec))) return;
          if (isEnded || Date.now() > deadline) {
            throw new HoldfastError(
              'GatewayFailed',
              `the gateway of ${id} does not serve: ${await this.#lastWords(id)}`,
            );
          }
          await sleep(LOOK_EVERY_MS, undefined, { signal });
        }
      } catch (error) {
        child.kill('SIGKILL');
        throw error;
      }
    });
  }

  /** What it last could not give to QEMU, in words; null when there was nothing, or no such gateway. */
  async problem(id: string): Promise<string | null> {
    const status = await readJson(join(this.#folder(id), STATUS_FILE), gatewayStatus);
    return status?.problems.at(-1)?.message ?? null;
  }

  /** Ends it and removes its folder. Nothing to do when there is none. */
  async end(id: string): Promise<void> {
    await this.#alone(id, async () => {
      await rm(join(this.#folder(id), SPEC_FILE), { force: true }); // from now on nobody begins it anew
      await this.#endProcess(id);
      await rm(this.#folder(id), { recursive: true, force: true });
    });
  }

  #spec = (id: string): Promise<GatewaySpec | undefined> => readJson(join(this.#folder(id), SPEC_FILE), gatewaySpec);

  /** A session of its own: what ends the worker, or its process group, leaves it. */
  async #spawn(id: string): Promise<ChildProcess> {
    const folder = this.#folder(id);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await using log = await open(join(folder, LOG_FILE), 'a', 0o600);
    const main = new URL('../../gateway/main.ts', import.meta.url).pathname;
    const child = spawn(process.execPath, [...NODE_FLAGS, main, join(folder, SPEC_FILE)], {
      env: { ...process.env, ...ENVIRONMENT },
      stdio: ['ignore', log.fd, log.fd],
      detached: true,
      cwd: '/',
    });
    child.on('error', () => undefined); // it did not start: told as the end of a process is
    child.unref();
    return child;
  }

  /** undefined when its process has ended. */
  async #pid(id: string): Promise<number | undefined> {
    const holder = await readFile(join(this.#folder(id), GATEWAY_LOCK), 'utf8').catch((error: unknown) => {
      if (isNotFound(error)) return '';
      throw error;
    });
    const pid = Number(holder.split(' ')[0]);
    return holder !== '' && (await identityOf(pid)) === holder ? pid : undefined;
  }

  async #endProcess(id: string): Promise<void> {
    const deadline = Date.now() + END_AFTER_MS;
    for (let pid = await this.#pid(id); pid !== undefined; pid = await this.#pid(id)) {
      try {
        process.kill(pid, Date.now() > deadline ? 'SIGKILL' : 'SIGTERM');
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
      }
      await sleep(LOOK_EVERY_MS);
    }
  }

  async #lastWords(id: string): Promise<string> {
    const log = await readFile(join(this.#folder(id), LOG_FILE), 'utf8').catch((error: unknown) => {
      if (isNotFound(error)) return ''; // it ended before it said anything
      throw error;
    });
    return log.slice(-LOG_TAIL_BYTES).trim().split('\n').at(-1) ?? 'it did not start';
  }

  async #alone(id: string, work: () => Promise<void>): Promise<void> {
    const before = this.#busy.get(id) ?? Promise.resolve();
    const mine = Promise.allSettled([before]).then(work); // who began the former one is told of its failure
    this.#busy.set(id, mine);
    try {
      await mine;
    } finally {
      if (this.#busy.get(id) === mine) this.#busy.delete(id);
    }
  }
}

/** Whether every export of it answers. */
async function answers({ disks }: GatewaySpec): Promise<boolean> {
  const told = await Promise.allSettled(
    disks.map(({ socketPath }) => listNbdExports({ socketPath }, { timeoutMs: ANSWER_WITHIN_MS })),
  );
  return told.every((one, index) => one.status === 'fulfilled' && one.value.includes(disks[index]?.target ?? ''));
}
