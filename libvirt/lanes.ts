import { abortable } from './abortable.ts';
import { Connection, type ConnectionOptions, type CallOptions, MAX_CALLS_IN_FLIGHT } from './connection.ts';
import { LibvirtConnectionLost } from './errors.ts';
import type { Procedure } from './calls.ts';
import type { Transport } from './transport.ts';

/** A quick call behind four slow ones of the same connection would wait for them, so each kind has its own. */
export type LaneName = 'control' | 'slow';

/** How long a daemon may take to let us in. */
const OPEN_TIMEOUT_MS = 20_000;

/** The daemon has some 20 threads for all its clients; a client that holds them all is a bad neighbour. */
const MAX_CONNECTIONS = { control: 1, slow: 4 } as const satisfies Record<LaneName, number>;

interface Member {
  attempt: Promise<Connection>;
  /** Undefined while the attempt runs. */
  connection: Connection | undefined;
}

/** The connections of one client: made when first needed, made anew by the next call after a loss. */
export class Lanes implements AsyncDisposable {
  readonly #transport: Transport;
  readonly #options: ConnectionOptions;
  readonly #lanes: Record<LaneName, Member[]> = { control: [], slow: [] };
  readonly #open = new Set<Connection>();
  readonly #disposing = new AbortController();

  constructor(transport: Transport, options: ConnectionOptions) {
    this.#transport = transport;
    this.#options = options;
  }

  /** Makes a call once. What was sent is never repeated here: only the caller can look whether it was carried out. */
  async call<A, R>(lane: LaneName, procedure: Procedure<A, R>, args: A, options: CallOptions = {}): Promise<R> {
    options.signal?.throwIfAborted();
    for (;;) {
      const choice = this.#choose(lane, options);
      if (choice instanceof Connection) return await choice.call(procedure, args, options);
      await abortable(choice, options.signal);
    }
  }

  /** A connection for one purpose; the caller closes it. */
  async connect({ signal, timeoutMs = OPEN_TIMEOUT_MS }: CallOptions = {}): Promise<Connection> {
    this.#disposing.signal.throwIfAborted();
    const limit = AbortSignal.timeout(Math.min(timeoutMs, OPEN_TIMEOUT_MS));
    const either = AbortSignal.any([limit, this.#disposing.signal, ...(signal === undefined ? [] : [signal])]);
    try {
      const socket = await this.#transport.open(either);
      const connection = await Connection.open(socket, this.#options, { signal: either });
      this.#open.add(connection);
      void connection.closed.then(() => this.#open.delete(connection));
      return connection;
    } catch (error) {
      signal?.throwIfAborted();
      this.#disposing.signal.throwIfAborted();
      if (limit.aborted) {
        throw new LibvirtConnectionLost('libvirt did not let us in in time', { cause: error, sent: false });
      }
      // Nothing was asked of libvirt yet but to let us in.
      if (error instanceof LibvirtConnectionLost && error.sent) {
        throw new LibvirtConnectionLost('libvirt closed the connection before it let us in', {
          cause: error.cause,
          sent: false,
        });
      }
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposing.abort(new LibvirtConnectionLost('this libvirt client was closed', { sent: false }));
    for (const connection of [...this.#open]) connection.close();
    await this.#transport[Symbol.asyncDispose]();
  }

  /** A connection with a free slot, or the promise of one to choose from again. Decided in one go: calls race for slots. */
  #choose(lane: LaneName, options: CallOptions): Connection | Promise<Connection> {
    const members = this.#lanes[lane];
    const open = members.flatMap(({ connection }) => (connection?.isOpen === true ? [connection] : []));
    const best = open.toSorted((one, other) => one.load - other.load)[0];
    if (best !== undefined && best.load < MAX_CALLS_IN_FLIGHT) return best;
    const coming = members.find(({ connection }) => connection === undefined);
    if (coming !== undefined) return coming.attempt;
    return best !== undefined && open.length >= MAX_CONNECTIONS[lane] ? best : this.#add(lane, options);
  }

  #add(lane: LaneName, { timeoutMs }: CallOptions): Promise<Connection> {
    // Not with the caller's signal: others may come to wait for the same connection.
    const member: Member = {
      attempt: this.connect(timeoutMs === undefined ? {} : { timeoutMs }),
      connection: undefined,
    };
    this.#lanes[lane].push(member);
    const forget = (): void => {
      this.#lanes[lane] = this.#lanes[lane].filter((other) => other !== member);
    };
    member.attempt.then((connection) => {
      member.connection = connection;
      void connection.closed.then(forget);
    }, forget);
    return member.attempt;
  }
}
