import { createServer, type Server } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import { join } from 'node:path';
import { CALLS, type Procedure } from '../../libvirt/calls.ts';
import type { EventMessage } from '../../libvirt/event-messages.ts';
import { packetBytes, type Packet, PacketReader } from '../../libvirt/packet.ts';
import {
  KEEPALIVE,
  MESSAGE_STATUS,
  MESSAGE_TYPE,
  type PacketHeader,
  PROGRAM,
  remoteError,
} from '../../libvirt/protocol.ts';
import { encode, XdrReader } from '../../libvirt/xdr.ts';
import { tempDir } from '../support/temp.ts';

/** One call as the daemon got it, with ways to answer it. */
export interface ReceivedCall {
  procedure: number;
  args<A>(of: Procedure<A, unknown>): A;
  reply<R>(of: Procedure<never, R> | Procedure<object, R>, value: R): void;
  fail(code: number, message: string): void;
  stream(status: number, data: Buffer): void;
}

/** The far end of one connection, which does as the test says. */
export class FakePeer {
  readonly socket: Duplex;
  /** All calls so far, by procedure number, without those of the opening. */
  readonly calls: ReceivedCall[] = [];
  readonly pongs: number[] = [];
  pings = 0;
  /** Streams the client has said OK to. */
  finishedStreams = 0;
  /** Answers each call that is not of the opening; by default the test does it by hand. */
  onCall: (call: ReceivedCall) => void = () => {};
  authTypes = [0];
  answersPings = true;
  hasKeepalive = true;
  readonly #reader = new PacketReader();
  #waiting: (() => void)[] = [];

  constructor(socket: Duplex) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      for (const packet of this.#reader.push(chunk)) this.#handle(packet);
      for (const wake of this.#waiting.splice(0)) wake();
    });
  }

  /** Waits until something holds of what arrived. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
  }

  /** The nth call of all. */
  async call(index: number): Promise<ReceivedCall> {
    await this.until(() => this.calls.length > index);
    return this.calls[index]!;
  }

  sendEvent<T>(event: EventMessage<T>, body: T): void {
    this.socket.write(eventBytes(event, body));
  }

  sendPing(): void {
    this.socket.write(keepaliveBytes(KEEPALIVE.PING));
  }

  #handle({ header, payload }: Packet): void {
    if (header.program === PROGRAM.KEEPALIVE) {
      if (header.procedure === KEEPALIVE.PONG) this.pongs.push(header.serial);
      else {
        this.pings += 1;
        if (this.answersPings) this.socket.write(keepaliveBytes(KEEPALIVE.PONG));
      }
      return;
    }
    if (header.type === MESSAGE_TYPE.STREAM) {
      if (header.status === MESSAGE_STATUS.OK) {
        this.finishedStreams += 1;
        this.#answer(header, MESSAGE_TYPE.STREAM, MESSAGE_STATUS.OK, Buffer.alloc(0));
      }
      return;
    }
    const call: ReceivedCall = {
      procedure: header.procedure,
      args: (of) => of.args.read(new XdrReader(payload)),
      reply: (of, value) => {
        this.#answer(header, MESSAGE_TYPE.REPLY, MESSAGE_STATUS.OK, encode(of.ret, value));
      },
      fail: (code, message) => {
        this.#answer(header, MESSAGE_TYPE.REPLY, MESSAGE_STATUS.ERROR, errorBytes(code, message));
      },
      stream: (status, data) => {
        this.#answer(header, MESSAGE_TYPE.STREAM, status, data);
      },
    };
    switch (header.procedure) {
      case CALLS.authList.number:
        call.reply(CALLS.authList, { types: this.authTypes });
        break;
      case CALLS.supportsFeature.number:
        call.reply(CALLS.supportsFeature, { supported: this.hasKeepalive });
        break;
      case CALLS.connectOpen.number:
        call.reply(CALLS.connectOpen, {});
        break;
      default:
        this.calls.push(call);
        this.onCall(call);
    }
  }

  #answer(header: PacketHeader, type: number, status: number, payload: Buffer): void {
    if (!this.socket.destroyed) this.socket.write(packetBytes({ ...header, type, status }, payload));
  }
}

export function eventBytes<T>(event: EventMessage<T>, body: T): Buffer {
  const header = { program: PROGRAM.REMOTE, version: 1, type: MESSAGE_TYPE.MESSAGE, serial: 0, status: 0 };
  return packetBytes({ ...header, procedure: event.procedure }, encode(event.body, body));
}

const keepaliveBytes = (procedure: number): Buffer =>
  packetBytes(
    { program: PROGRAM.KEEPALIVE, version: 1, procedure, type: MESSAGE_TYPE.MESSAGE, serial: 0, status: 0 },
    Buffer.alloc(0),
  );

const errorBytes = (code: number, message: string): Buffer =>
  encode(remoteError, {
    code,
    domain: 10,
    message,
    level: 2,
    dom: null,
    str1: '%s',
    str2: null,
    str3: null,
    int1: -1,
    int2: -1,
    net: null,
  });

/** Both ends of a connection in memory. */
export function fakePair(): { socket: Duplex; peer: FakePeer } {
  const [socket, far] = duplexPair();
  return { socket, peer: new FakePeer(far) };
}

/** A daemon on a unix socket. */
export interface FakeDaemon extends AsyncDisposable {
  path: string;
  /** Each connection so far. */
  peers: FakePeer[];
}

export async function fakeDaemon(onPeer: (peer: FakePeer) => void = () => {}): Promise<FakeDaemon> {
  const dir = await tempDir();
  const path = join(dir.path, 'sock');
  const peers: FakePeer[] = [];
  const server: Server = createServer((socket) => {
    const peer = new FakePeer(socket);
    peers.push(peer);
    onPeer(peer);
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  return {
    path,
    peers,
    async [Symbol.asyncDispose]() {
      for (const { socket } of peers) socket.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
      });
      await dir[Symbol.asyncDispose]();
    },
  };
}
