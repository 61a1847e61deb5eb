import type { Channel, ExactReader } from './channel.ts';
import { NbdProtocolError, NbdRefused, type NbdRefusal } from './errors.ts';
import {
  encodeGo,
  encodeOption,
  encodeSetMetaContext,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  MAX_STRING_BYTES,
  NBDMAGIC,
  OPT_ABORT,
  OPT_GO,
  OPT_LIST,
  OPT_SET_META_CONTEXT,
  OPT_STRUCTURED_REPLY,
  readUInt53BE,
  REP_ACK,
  REP_ERROR_BIT,
  REP_INFO,
  REP_META_CONTEXT,
  REP_SERVER,
  REPLY_MAGIC,
  TRANSMISSION_CAN_MULTI_CONN,
  TRANSMISSION_READ_ONLY,
} from './protocol.ts';

/** What a server says of an export. */
export interface NbdExportInfo {
  sizeBytes: number;
  isReadOnly: boolean;
  /** Several connections see the same data; without it the server may also accept only one at a time. */
  canMultiConn: boolean;
  /** Smallest unit of offsets and lengths, 1 to 65,536. */
  minBlockBytes: number;
  /** Longest read the server answers. */
  maxBlockBytes: number;
}

export interface NegotiatedExport {
  info: NbdExportInfo;
  hasStructuredReplies: boolean;
  /** Name of each context that was agreed on, by the id the server gave it. */
  contexts: ReadonlyMap<number, string>;
}

type Wire = Pick<Channel, 'write'>;

/** Replies of the handshake are small; a longer one is not NBD. */
const MAX_REPLY_BYTES = 64 * 1024;
const MAX_REPLIES = 16_384;
/** What a client may assume where the server states nothing. Source: doc/proto.md, "Block size constraints" */
const DEFAULT_MAX_BLOCK_BYTES = 32 * 1024 * 1024;

/** Source: doc/proto.md, "Option reply types" */
const REFUSALS: Readonly<Record<number, NbdRefusal>> = {
  1: 'unsupported',
  2: 'policy',
  3: 'invalid',
  4: 'platform',
  5: 'tls-required',
  6: 'unknown',
  7: 'shutdown',
  8: 'block-size',
  9: 'too-big',
};

/** Reads the server's greeting and answers it; only fixed newstyle servers are spoken to. */
export async function greet(wire: Wire, reader: ExactReader): Promise<void> {
  const greeting = await reader.read(18);
  if (greeting.readBigUInt64BE(0) !== NBDMAGIC) throw new NbdProtocolError('what listens there is no NBD server');
  if (greeting.readBigUInt64BE(8) !== IHAVEOPT)
    throw new NbdProtocolError('the NBD server speaks only the oldstyle protocol');
  const flags = greeting.readUInt16BE(16);
  if ((flags & FLAG_FIXED_NEWSTYLE) === 0)
    throw new NbdProtocolError('the NBD server lacks fixed newstyle negotiation');
  const answer = Buffer.alloc(4);
  answer.writeUInt32BE(FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES));
  wire.write(answer);
}

/** Names of the server's exports. The server may refuse to tell. */
export async function negotiateList(wire: Wire, reader: ExactReader): Promise<string[]> {
  wire.write(encodeOption(OPT_LIST));
  const names: string[] = [];
  for await (const reply of replies(reader, OPT_LIST, 'list exports')) {
    if (reply.type !== REP_SERVER) continue;
    if (reply.data.length < 4) throw new NbdProtocolError('NBD reply to LIST is too short');
    const length = reply.data.readUInt32BE(0);
    if (length > MAX_STRING_BYTES || 4 + length > reply.data.length) {
      throw new NbdProtocolError(`NBD export name of ${length} bytes`);
    }
    names.push(reply.data.toString('utf8', 4, 4 + length));
  }
  wire.write(encodeOption(OPT_ABORT));
  return names;
}

/** Agrees on structured replies and contexts, then enters the transmission phase of an export. */
export async function negotiateExport(
  wire: Wire,
  reader: ExactReader,
  exportName: string,
  wanted: readonly string[],
): Promise<NegotiatedExport> {
  wire.write(encodeOption(OPT_STRUCTURED_REPLY));
  const hasStructuredReplies = await drain(replies(reader, OPT_STRUCTURED_REPLY, 'structured replies')).then(
    () => true,
    (error: unknown) => {
      if (error instanceof NbdRefused && error.code === 'unsupported') return false;
      throw error;
    },
  );
  const contexts = new Map<number, string>();
  if (wanted.length > 0) {
    if (!hasStructuredReplies) throw new NbdRefused('unsupported', 'the NBD server has no metadata contexts');
    await setContexts(wire, reader, exportName, wanted, contexts);
  }
  wire.write(encodeGo(exportName));
  const info = await readInfo(replies(reader, OPT_GO, `export "${exportName}"`));
  return { info, hasStructuredReplies, contexts };
}

async function setContexts(
  wire: Wire,
  reader: ExactReader,
  exportName: string,
  wanted: readonly string[],
  contexts: Map<number, string>,
): Promise<void> {
  wire.write(encodeSetMetaContext(exportName, wanted));
  for await (const { type, data } of replies(reader, OPT_SET_META_CONTEXT, `contexts of export "${exportName}"`)) {
    if (type !== REP_META_CONTEXT) continue;
    if (data.length < 5) throw new NbdProtocolError('NBD reply to SET_META_CONTEXT is too short');
    contexts.set(data.readUInt32BE(0), data.toString('utf8', 4));
  }
  const agreed = new Set(contexts.values());
  const missing = wanted.filter((name) => !agreed.has(name));
  if (missing.length > 0) {
    throw new NbdRefused('unknown', `export "${exportName}" has no metadata context ${missing.join(', ')}`);
  }
}

async function readInfo(information: AsyncIterable<OptionReply>): Promise<NbdExportInfo> {
  let sizeBytes: number | undefined;
  let flags = 0;
  let minBlockBytes = 1;
  let maxBlockBytes = DEFAULT_MAX_BLOCK_BYTES;
  for await (const { type, data } of information) {
    if (type !== REP_INFO) continue;
    const kind = data.length >= 2 ? data.readUInt16BE(0) : -1;
    if (kind === INFO_EXPORT && data.length === 12) {
      sizeBytes = readUInt53BE(data, 2);
      flags = data.readUInt16BE(10);
    } else if (kind === INFO_BLOCK_SIZE && data.length === 14) {
      minBlockBytes = data.readUInt32BE(2);
      maxBlockBytes = Math.min(maxBlockBytes, data.readUInt32BE(10));
    } else if (kind === INFO_EXPORT || kind === INFO_BLOCK_SIZE || kind === -1) {
      throw new NbdProtocolError(`NBD information of kind ${kind} has ${data.length} bytes`);
    }
  }
  if (sizeBytes === undefined) throw new NbdProtocolError('the NBD server did not tell the size of the export');
  if (!Number.isSafeInteger(sizeBytes)) throw new NbdProtocolError(`NBD export of ${sizeBytes} bytes`);
  const isPower = (minBlockBytes & (minBlockBytes - 1)) === 0;
  if (minBlockBytes < 1 || minBlockBytes > 65_536 || !isPower || maxBlockBytes < minBlockBytes) {
    throw new NbdProtocolError(`NBD block sizes from ${minBlockBytes} to ${maxBlockBytes}`);
  }
  return {
    sizeBytes,
    isReadOnly: (flags & TRANSMISSION_READ_ONLY) !== 0,
    canMultiConn: (flags & TRANSMISSION_CAN_MULTI_CONN) !== 0,
    minBlockBytes,
    maxBlockBytes,
  };
}

interface OptionReply {
  type: number;
  data: Buffer;
}

/** The replies to one option up to its ACK. Each: magic u64, option u32, type u32, length u32, data. @throws NbdRefused */
async function* replies(reader: ExactReader, option: number, subject: string): AsyncGenerator<OptionReply> {
  for (let count = 0; count < MAX_REPLIES; count++) {
    const head = await reader.read(20);
    if (head.readBigUInt64BE(0) !== REPLY_MAGIC || head.readUInt32BE(8) !== option) {
      throw new NbdProtocolError(`unexpected NBD reply to option ${option}`);
    }
    const type = head.readUInt32BE(12);
    const length = head.readUInt32BE(16);
    if (length > MAX_REPLY_BYTES) throw new NbdProtocolError(`NBD reply of ${length} bytes to option ${option}`);
    const data = await reader.read(length);
    if (type === REP_ACK) return;
    if (type >= REP_ERROR_BIT) {
      const said = data.length > 0 ? `: ${data.toString('utf8', 0, 500)}` : '';
      const code = REFUSALS[type - REP_ERROR_BIT] ?? 'other';
      throw new NbdRefused(code, `NBD server refused ${subject} (${code})${said}`);
    }
    yield { type, data };
  }
  throw new NbdProtocolError(`more than ${MAX_REPLIES} NBD replies to option ${option}`);
}

async function drain(all: AsyncGenerator): Promise<void> {
  while ((await all.next()).done !== true);
}
