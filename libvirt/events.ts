import { setTimeout as delay } from 'node:timers/promises';
import type { Connection } from './connection.ts';
import { isLibvirtError, LIBVIRT_ERRORS } from './errors.ts';
import { BLOCK_JOB_STATUSES, BLOCK_JOB_TYPES, IO_ERROR_ACTIONS, LIFECYCLE_EVENTS, nameOf } from './flags.ts';
import { CALLS } from './calls.ts';
import { type EventMessage, EVENTS } from './event-messages.ts';
import type { Domain, Parameters } from './protocol.ts';
import { XdrReader } from './xdr.ts';

/** What happened to a domain. */
export type DomainEvent =
  | {
      kind: 'lifecycle';
      domain: Domain;
      event: (typeof LIFECYCLE_EVENTS)[number] | 'unknown';
      /** virDomainEvent<Event>DetailType. */
      detail: number;
    }
  | { kind: 'reboot'; domain: Domain }
  | { kind: 'controlError'; domain: Domain }
  | {
      kind: 'jobCompleted';
      domain: Domain;
      /** True also for a pull backup that was ended by abortJob: that is how one ends. */
      success: boolean;
      errorMessage: string | null;
      params: Parameters;
    }
  | {
      kind: 'blockJob2';
      domain: Domain;
      target: string;
      jobType: (typeof BLOCK_JOB_TYPES)[number];
      status: (typeof BLOCK_JOB_STATUSES)[number] | 'unknown';
    }
  | { kind: 'agentLifecycle'; domain: Domain; state: 'connected' | 'disconnected' }
  | {
      kind: 'ioError';
      domain: Domain;
      path: string;
      alias: string;
      action: (typeof IO_ERROR_ACTIONS)[number] | 'unknown';
      /** `enospc` or empty. */
      reason: string;
    }
  | { kind: 'diskChange'; domain: Domain; alias: string; oldPath: string | null; newPath: string | null }
  | { kind: 'deviceAdded'; domain: Domain; alias: string }
  | { kind: 'deviceRemoved'; domain: Domain; alias: string }
  | {
      kind: 'blockThreshold';
      domain: Domain;
      target: string;
      path: string | null;
      thresholdBytes: number;
      excessBytes: number;
    };

/** `gap`: events may have been missed, because the connection was lost or the reader was too slow. Look once. */
export type LibvirtEvent = DomainEvent | { kind: 'gap' };

interface Source {
  readonly eventId: number;
  readonly procedure: number;
  read(payload: Buffer): DomainEvent;
}

const source = <T>(message: EventMessage<T>, toEvent: (body: T) => DomainEvent): Source => ({
  eventId: message.eventId,
  procedure: message.procedure,
  read: (payload) => toEvent(message.body.read(new XdrReader(payload))),
});

const SOURCES: readonly Source[] = [
  source(EVENTS.lifecycle, ({ dom, event, detail }) => ({
    kind: 'lifecycle',
    domain: dom,
    event: nameOf(LIFECYCLE_EVENTS, event),
    detail,
  })),
  source(EVENTS.reboot, ({ dom }) => ({ kind: 'reboot', domain: dom })),
  source(EVENTS.controlError, ({ dom }) => ({ kind: 'controlError', domain: dom })),
  source(EVENTS.jobCompleted, ({ dom, params }) => ({
    kind: 'jobCompleted',
    domain: dom,
    success: params['success'] === true,
    errorMessage: typeof params['errmsg'] === 'string' ? params['errmsg'] : null,
    params,
  })),
  source(EVENTS.blockJob2, ({ dom, target, type, status }) => ({
    kind: 'blockJob2',
    domain: dom,
    target,
    jobType: nameOf(BLOCK_JOB_TYPES, type),
    status: nameOf(BLOCK_JOB_STATUSES, status),
  })),
  source(EVENTS.agentLifecycle, ({ dom, state }) => ({
    kind: 'agentLifecycle',
    domain: dom,
    state: state === 1 ? 'connected' : 'disconnected',
  })),
  source(EVENTS.ioErrorReason, ({ dom, path, alias, action, reason }) => ({
    kind: 'ioError',
    domain: dom,
    path,
    alias,
    action: nameOf(IO_ERROR_ACTIONS, action),
    reason,
  })),
  source(EVENTS.diskChange, ({ dom, alias, oldPath, newPath }) => ({
    kind: 'diskChange',
    domain: dom,
    alias,
    oldPath,
    newPath,
  })),
  source(EVENTS.deviceAdded, ({ dom, alias }) => ({ kind: 'deviceAdded', domain: dom, alias })),
  source(EVENTS.deviceRemoved, ({ dom, alias }) => ({ kind: 'deviceRemoved', domain: dom, alias })),
  source(EVENTS.blockThreshold, ({ dom, target, path, threshold, excess }) => ({
    kind: 'blockThreshold',
    domain: dom,
    target,
    path,
    thresholdBytes: Number(threshold),
    excessBytes: Number(excess),
  })),
];
const SOURCE_OF = new Map(SOURCES.map((item) => [item.procedure, item]));

/** How many events a reader may lag behind before they are dropped for a `gap`. */
const MAX_UNREAD_EVENTS = 10_000;

/** One reader's events, from the moment `ready` resolves. Ends with its signal, `return()` or disposal. */
export class EventSubscription implements AsyncIterableIterator<LibvirtEvent>, AsyncDisposable {
  /** Resolves when libvirt sends events: wait for it before the act whose events are wanted. */
  readonly ready: Promise<void>;
  readonly #uuid: string | undefined;
  readonly #end: (subscription: EventSubscription) => void;
  #unread: LibvirtEvent[] = [];
  #waiters: { resolve(result: IteratorResult<LibvirtEvent>): void; reject(error: unknown): void }[] = [];
  #ended: { error: unknown } | undefined;

  constructor(ready: Promise<void>, uuid: string | undefined, end: (subscription: EventSubscription) => void) {
    this.ready = ready;
    this.#uuid = uuid;
    this.#end = end;
    ready.catch((error: unknown) => this.finish(error));
  }

  /** For the hub: hands over one event. */
  push(event: LibvirtEvent): void {
    if (this.#ended !== undefined) return;
    if (event.kind !== 'gap' && this.#uuid !== undefined && event.domain.uuid !== this.#uuid) return;
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) waiter.resolve({ value: event, done: false });
    else if (this.#unread.length >= MAX_UNREAD_EVENTS) this.#unread = [{ kind: 'gap' }];
    else this.#unread.push(event);
  }

  /** For the hub: no more events; `error` goes to the reader. */
  finish(error?: unknown): void {
    if (this.#ended !== undefined) return;
    this.#ended = { error: this.#waiters.length === 0 ? error : undefined }; // told once
    this.#end(this);
    for (const waiter of this.#waiters.splice(0)) {
      if (error === undefined) waiter.resolve({ value: undefined, done: true });
      else waiter.reject(error);
    }
  }

  async next(): Promise<IteratorResult<LibvirtEvent>> {
    const event = this.#unread.shift();
    if (event !== undefined) return { value: event, done: false };
    if (this.#ended !== undefined) {
      const { error } = this.#ended;
      this.#ended = { error: undefined };
      if (error !== undefined) throw error as Error;
      return { value: undefined, done: true };
    }
    const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<LibvirtEvent>>();
    this.#waiters.push({ resolve, reject });
    return await promise;
  }

  async return(): Promise<IteratorResult<LibvirtEvent>> {
    this.finish();
    this.#unread = [];
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}

/**
 * Registers every kind of event once per connection, for all domains (libvirt refuses the same registration twice), and
 * fans them out. A lost connection is made anew while anybody listens.
 */
export class EventHub {
  readonly #connect: () => Promise<Connection>;
  readonly #subscriptions = new Set<EventSubscription>();
  readonly #stopping = new AbortController();
  #connection: Promise<Connection> | undefined;

  constructor(connect: () => Promise<Connection>) {
    this.#connect = connect;
  }

  subscribe({ uuid, signal }: { uuid?: string | undefined; signal?: AbortSignal | undefined } = {}): EventSubscription {
    const onAbort = (): void => subscription.finish(signal?.reason);
    const ready = this.#ready(signal);
    const subscription = new EventSubscription(ready, uuid?.toLowerCase(), (ended) => {
      signal?.removeEventListener('abort', onAbort);
      this.#subscriptions.delete(ended);
    });
    this.#subscriptions.add(subscription);
    signal?.addEventListener('abort', onAbort, { once: true });
    return subscription;
  }

  /** Ends all readers; the connection is its maker's to close. */
  stop(): void {
    this.#stopping.abort();
    for (const subscription of [...this.#subscriptions]) subscription.finish();
  }

  async #ready(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    await this.#registered();
  }

  /** The connection events come over; one attempt for all who ask. */
  #registered(): Promise<Connection> {
    if (this.#connection === undefined) {
      const attempt = this.#register();
      this.#connection = attempt;
      attempt.then(
        (connection) => void connection.closed.then(() => this.#recover()),
        () => {
          this.#connection = undefined;
        },
      );
    }
    return this.#connection;
  }

  async #register(): Promise<Connection> {
    const connection = await this.#connect();
    connection.onEvent((procedure, payload) => {
      const event = SOURCE_OF.get(procedure)?.read(payload);
      if (event !== undefined) for (const subscription of [...this.#subscriptions]) subscription.push(event);
    });
    try {
      for (const { eventId } of SOURCES) {
        await connection.call(CALLS.eventRegister, { eventId, dom: null }).catch((error: unknown) => {
          // "unsupported event ID": an older daemon has no such event
          if (!isLibvirtError(error, LIBVIRT_ERRORS.INTERNAL_ERROR, LIBVIRT_ERRORS.INVALID_ARG)) throw error;
        });
      }
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Registers again until it works or nobody listens; then says that something may have been missed. */
  async #recover(): Promise<void> {
    this.#connection = undefined;
    const { signal } = this.#stopping;
    for (let waitMs = 100; !signal.aborted && this.#subscriptions.size > 0; waitMs = Math.min(waitMs * 2, 5_000)) {
      try {
        await this.#registered();
        for (const subscription of [...this.#subscriptions]) subscription.push({ kind: 'gap' });
        return;
      } catch {
        await delay(waitMs, undefined, { signal }).catch(() => {});
      }
    }
  }
}
