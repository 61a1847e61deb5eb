import { domain, type Fields, parameters } from './protocol.ts';
import { int, optional, string, struct, uhyper, type Codec } from './xdr.ts';

const dom = { dom: domain };

/** An event: the id it is registered by, the number its messages carry, and their fields. */
export interface EventMessage<T> {
  readonly eventId: number;
  readonly procedure: number;
  readonly body: Codec<T>;
}

const withCallbackId = <T>(fields: Codec<T>): Codec<T> => ({
  write(to, value) {
    to.int(0);
    fields.write(to, value);
  },
  read(from) {
    from.int();
    return fields.read(from);
  },
});

/**
 * Each message begins with the id of the registration. The definitions of older events nest the other fields in a struct,
 * those of newer ones do not; on the wire that is the same, for XDR writes no brackets.
 */
const event = <T extends object>(eventId: number, number: number, fields: Fields<T>): EventMessage<T> => ({
  eventId,
  procedure: number,
  body: withCallbackId(struct<T>(fields)),
});
export const EVENTS = {
  lifecycle: event(0, 318, { ...dom, event: int, detail: int }),
  reboot: event(1, 319, dom),
  ioErrorReason: event(6, 324, { ...dom, path: string, alias: string, action: int, reason: string }),
  controlError: event(7, 325, dom),
  diskChange: event(9, 327, {
    ...dom,
    oldPath: optional(string),
    newPath: optional(string),
    alias: string,
    reason: int,
  }),
  deviceRemoved: event(15, 333, { ...dom, alias: string }),
  blockJob2: event(16, 339, { ...dom, target: string, type: int, status: int }),
  agentLifecycle: event(18, 348, { ...dom, state: int, reason: int }),
  deviceAdded: event(19, 354, { ...dom, alias: string }),
  jobCompleted: event(21, 363, { ...dom, params: parameters(64) }),
  blockThreshold: event(24, 385, {
    ...dom,
    target: string,
    path: optional(string),
    threshold: uhyper,
    excess: uhyper,
  }),
} as const;
