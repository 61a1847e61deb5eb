import { z } from 'zod';

/** Names in the folder of a gateway, beside its spec. */
export const SPEC_FILE = 'spec.json';
export const GATEWAY_LOCK = 'process';
export const STATUS_FILE = 'status.json';
export const LOG_FILE = 'log';
export const SEGMENT_FOLDER = 'segments';

/** What a gateway could not give to its clients. */
export const gatewayStatus = z.object({
  problems: z.array(z.object({ at: z.iso.datetime(), times: z.int().positive(), message: z.string() })),
});
export type GatewayStatus = z.infer<typeof gatewayStatus>;

const MAX_PROBLEMS = 20;
/** A client that is refused may ask again at once, over and over. */
const WRITE_EVERY_MS = 1000;

/** Keeps the last problems, each once, and has them written where the worker finds them. */
export class ProblemLog {
  readonly #log: (line: string) => void;
  readonly #write: (problems: GatewayStatus['problems']) => Promise<void>;
  #problems: GatewayStatus['problems'] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(log: (line: string) => void, write: (problems: GatewayStatus['problems']) => Promise<void>) {
    this.#log = log;
    this.#write = write;
  }

  note({ message }: Error): void {
    const known = this.#problems.find((problem) => problem.message === message);
    if (known === undefined) this.#log(message);
    const others = this.#problems.filter((problem) => problem !== known);
    const noted = { at: new Date().toISOString(), times: (known?.times ?? 0) + 1, message };
    this.#problems = [...others, noted].slice(-MAX_PROBLEMS);
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        this.#write(this.#problems).catch((error: unknown) => this.#log(`status: ${String(error)}`));
      },
      known === undefined ? 0 : WRITE_EVERY_MS,
    ).unref();
  }
}
