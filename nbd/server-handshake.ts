import { NbdProtocolError } from './errors.ts';
import {
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  MAX_STRING_BYTES,
  NBDMAGIC,
  OPT_ABORT,
  OPT_EXPORT_NAME,
  OPT_GO,
  OPT_INFO,
  OPT_LIST,
  OPT_LIST_META_CONTEXT,
  OPT_SET_META_CONTEXT,
  OPT_STRUCTURED_REPLY,
  REP_ACK,
  REP_ERR_INVALID,
  REP_ERR_TOO_BIG,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  REP_INFO,
  REP_META_CONTEXT,
  REP_SERVER,
  TRANSMISSION_CAN_MULTI_CONN,
  TRANSMISSION_HAS_FLAGS,
  TRANSMISSION_READ_ONLY,
} from './protocol.ts';
import { optionReply } from './server-replies.ts';

/** What a client has chosen when the handshake is over. */
export interface ChosenExport<Disk> {
  disk: Disk;
  isStructured: boolean;
  /** The client may ask for block status, of this context alone. */
  hasAllocation: boolean;
}

/** The bytes of a client, in order, and the way back. */
export interface ClientWire {
  /** Exactly so many bytes. @throws NbdConnectionLost when they do not come */
  read(lengthBytes: number): Promise<Buffer>;
  write(bytes: Uint8Array): void;
}

/** Id of the one context there is. */
export const ALLOCATION_ID = 1;
const ALLOCATION = 'base:allocation';

/** Longest read that is answered. Source: doc/proto.md, "Block size constraints" */
export const MAX_BLOCK_BYTES = 32 * 1024 * 1024;
/** What is read best: the usual cluster. */
const PREFERRED_BLOCK_BYTES = 65_536;
const FLAGS = TRANSMISSION_HAS_FLAGS | TRANSMISSION_READ_ONLY | TRANSMISSION_CAN_MULTI_CONN;
/** Options are names; a longer one is no client's. */
const MAX_OPTION_BYTES = 64 * 1024;
const MAX_OPTIONS = 1000;

/**
 * Speaks fixed newstyle with a client until it has chosen an export or gone.
 * @returns undefined when the client said goodbye
 * @throws NbdProtocolError, NbdConnectionLost
 */
export async function receiveClient<Disk extends { sizeBytes: number }>(
  wire: ClientWire,
  exports: ReadonlyMap<string, Disk>,
): Promise<ChosenExport<Disk> | undefined> {
  const greeting = Buffer.allocUnsafe(18);
  greeting.writeBigUInt64BE(NBDMAGIC, 0);
  greeting.writeBigUInt64BE(IHAVEOPT, 8);
  greeting.writeUInt16BE(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 16);
  wire.write(greeting);
  const clientFlags = (await wire.read(4)).readUInt32BE(0);
  if ((clientFlags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)) !== 0) {
    throw new NbdProtocolError(`NBD client has the flags 0x${clientFlags.toString(16)}`);
  }

  let isStructured = false;
  /** The export that a context was chosen for. */
  let allocationOf: string | undefined;
  for (let count = 0; count < MAX_OPTIONS; count += 1) {
    const head = await wire.read(16);
    if (head.readBigUInt64BE(0) !== IHAVEOPT) throw new NbdProtocolError('NBD client sent no option');
    const option = head.readUInt32BE(8);
    const lengthBytes = head.readUInt32BE(12);
    const reply = (type: number, data?: Uint8Array): void => wire.write(optionReply(option, type, data));
    if (lengthBytes > MAX_OPTION_BYTES) throw new NbdProtocolError(`NBD option ${option} of ${lengthBytes} bytes`);
    const data = await wire.read(lengthBytes);
    switch (option) {
      case OPT_ABORT:
        reply(REP_ACK);
        return undefined;
      case OPT_LIST:
        if (data.length > 0) reply(REP_ERR_INVALID);
        else {
          for (const name of exports.keys()) reply(REP_SERVER, withLength(name));
          reply(REP_ACK);
        }
        break;
      case OPT_STRUCTURED_REPLY:
        isStructured ||= data.length === 0;
        reply(data.length === 0 ? REP_ACK : REP_ERR_INVALID);
        break;
      case OPT_EXPORT_NAME: {
        // An old client: there is no way to refuse it but to hang up.
        const disk = exports.get(data.toString('utf8'));
        if (disk === undefined) throw new NbdProtocolError('NBD client wants an export that is not there');
        const isShort = (clientFlags & FLAG_NO_ZEROES) !== 0;
        wire.write(Buffer.concat([exportFacts(disk), Buffer.alloc(isShort ? 0 : 124)]));
        return { disk, isStructured, hasAllocation: allocationOf === data.toString('utf8') };
      }
      case OPT_INFO:
      case OPT_GO: {
        const name = nameIn(data, 2);
        const disk = name === undefined ? undefined : exports.get(name);
        if (name === undefined) reply(REP_ERR_INVALID);
        else if (disk === undefined) reply(REP_ERR_UNKNOWN, Buffer.from(`there is no export ${JSON.stringify(name)}`));
        else {
          reply(REP_INFO, Buffer.concat([number16(INFO_EXPORT), exportFacts(disk)]));
          const sizes = [1, PREFERRED_BLOCK_BYTES, MAX_BLOCK_BYTES].map(number32);
          reply(REP_INFO, Buffer.concat([number16(INFO_BLOCK_SIZE), ...sizes]));
          reply(REP_ACK);
          if (option === OPT_GO) return { disk, isStructured, hasAllocation: allocationOf === name };
        }
        break;
      }
      case OPT_LIST_META_CONTEXT:
      case OPT_SET_META_CONTEXT: {
        const asked = contextsIn(data);
        const isSetting = option === OPT_SET_META_CONTEXT;
        if (asked === undefined || !isStructured) reply(REP_ERR_INVALID);
        else if (asked.queries.length > 1000) reply(REP_ERR_TOO_BIG);
        else if (!exports.has(asked.name)) reply(REP_ERR_UNKNOWN);
        else {
          // A list may be asked for all there is, or for all of a namespace.
          const wanted = isSetting ? [ALLOCATION] : [ALLOCATION, 'base:'];
          const isAll = !isSetting && asked.queries.length === 0;
          const isChosen = isAll || asked.queries.some((query) => wanted.includes(query));
          if (isChosen) reply(REP_META_CONTEXT, Buffer.concat([number32(ALLOCATION_ID), Buffer.from(ALLOCATION)]));
          if (isSetting) allocationOf = isChosen ? asked.name : undefined;
          reply(REP_ACK);
        }
        break;
      }
      default:
        reply(REP_ERR_UNSUP);
    }
  }
  throw new NbdProtocolError(`NBD client sent more than ${MAX_OPTIONS} options`);
}

/** size u64, transmission flags u16 */
function exportFacts({ sizeBytes }: { sizeBytes: number }): Buffer {
  const facts = Buffer.allocUnsafe(10);
  facts.writeBigUInt64BE(BigInt(sizeBytes), 0);
  facts.writeUInt16BE(FLAGS, 8);
  return facts;
}

/** A name after its length u32, and `rest` bytes or more behind it; undefined when the data is shorter. */
function nameIn(data: Buffer, rest: number): string | undefined {
  if (data.length < 4) return undefined;
  const lengthBytes = data.readUInt32BE(0);
  if (lengthBytes > MAX_STRING_BYTES || data.length < 4 + lengthBytes + rest) return undefined;
  return data.toString('utf8', 4, 4 + lengthBytes);
}

/** Export name, count u32, queries. */
function contextsIn(data: Buffer): { name: string; queries: string[] } | undefined {
  const name = nameIn(data, 4);
  if (name === undefined) return undefined;
  let at = 4 + data.readUInt32BE(0);
  const count = data.readUInt32BE(at);
  at += 4;
  const queries: string[] = [];
  while (queries.length < count) {
    const query = nameIn(data.subarray(at), 0);
    if (query === undefined) return undefined;
    queries.push(query);
    at += 4 + data.readUInt32BE(at);
  }
  return at === data.length ? { name, queries } : undefined;
}

function withLength(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  return Buffer.concat([number32(bytes.length), bytes]);
}

function number16(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function number32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
