/**
 * The frame of libvirt's RPC and the types its calls and events share; `calls.ts` and `event-messages.ts` list those.
 * Numbers and shapes are libvirt's interface; those listed here are identical in libvirt 9.0.0 and 11.3.0.
 * Sources: src/remote/remote_protocol.x, src/remote/qemu_protocol.x, src/rpc/virnetprotocol.x,
 * src/rpc/virkeepaliveprotocol.x, include/libvirt/*.h
 */
import {
  array,
  double,
  int,
  optional,
  string,
  struct,
  uint,
  uuid,
  type Codec,
  XdrError,
  type XdrReader,
} from './xdr.ts';

/** VIR_NET_MESSAGE_MAX: most bytes that may follow the length word. The daemon closes at once on more. */
export const MESSAGE_MAX_BYTES = 0x2000000;
/** The length word, which counts itself. */
export const LENGTH_BYTES = 4;
/** The six words between the length and the payload. */
export const HEADER_BYTES = 24;

export const MESSAGE_TYPE = { CALL: 0, REPLY: 1, MESSAGE: 2, STREAM: 3, STREAM_HOLE: 6 } as const;
export const MESSAGE_STATUS = { OK: 0, ERROR: 1, CONTINUE: 2 } as const;

export const PROGRAM = { REMOTE: 0x20008086, QEMU: 0x20008087, KEEPALIVE: 0x6b656570 } as const;
/** All three programs are at version 1. */
export const PROGRAM_VERSION = 1;
export const KEEPALIVE = { PING: 1, PONG: 2 } as const;

export const AUTH = { NONE: 0, SASL: 1, POLKIT: 2 } as const;
export const FEATURE = { KEEPALIVE: 10, EVENT_CALLBACK: 14 } as const;

/**
 * Start of a packet: seven big-endian words. `length` counts the whole packet, itself included. Replies and stream
 * packets carry program, procedure and serial of their call; events and keepalive carry serial 0.
 */
export interface PacketHeader {
  length: number;
  program: number;
  version: number;
  procedure: number;
  type: number;
  serial: number;
  status: number;
}
export const packetHeader: Codec<PacketHeader> = struct<PacketHeader>({
  length: uint,
  program: uint,
  version: uint,
  procedure: int,
  type: int,
  serial: uint,
  status: int,
});

/** A domain as libvirt names it. `id` is -1 when it does not run; only `uuid` is its identity. */
export interface Domain {
  name: string;
  uuid: string;
  id: number;
}
export const domain: Codec<Domain> = struct<Domain>({ name: string, uuid, id: int });

/** A checkpoint or snapshot of a domain. */
export interface NamedOfDomain {
  name: string;
  dom: Domain;
}
export const namedOfDomain: Codec<NamedOfDomain> = struct<NamedOfDomain>({ name: string, dom: domain });

export const remoteError = struct({
  code: int,
  domain: int,
  message: optional(string),
  level: int,
  dom: optional(domain),
  str1: optional(string),
  str2: optional(string),
  str3: optional(string),
  int1: int,
  int2: int,
  net: optional(struct({ name: string, uuid })),
});

/** 64-bit values are numbers while they are exact as such, else bigint. */
export type ParameterValue = number | bigint | string | boolean;
export type Parameters = Record<string, ParameterValue>;

const exact = (value: bigint): number | bigint => (Number.isSafeInteger(Number(value)) ? Number(value) : value);

/** remote_typed_param_value: virTypedParameterType, then the value. */
function readParameterValue(from: XdrReader): ParameterValue {
  const type = from.int();
  switch (type) {
    case 1:
      return from.int();
    case 2:
      return from.uint();
    case 3:
      return exact(from.hyper());
    case 4:
      return exact(from.uhyper());
    case 5:
      return double.read(from);
    case 6:
      return from.int() !== 0;
    case 7:
      return string.read(from);
    default:
      throw new XdrError(`unknown type ${type} of a typed parameter`);
  }
}

/** Typed parameters, read only: none of the calls we make sends any. */
export const parameters = (maxLength: number): Codec<Parameters> => {
  const list = array<[string, ParameterValue]>(
    {
      write: () => {
        throw new XdrError('typed parameters are never sent');
      },
      read: (from) => [string.read(from), readParameterValue(from)],
    },
    maxLength,
  );
  return {
    write: (to, value) => list.write(to, Object.entries(value)),
    read: (from) => Object.fromEntries(list.read(from)),
  };
};

/** Codecs of an object's fields, in the order of the wire. */
export type Fields<T> = { readonly [K in keyof T]: Codec<T[K]> };
