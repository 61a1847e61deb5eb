import { HEADER_BYTES, LENGTH_BYTES, MESSAGE_MAX_BYTES, packetHeader, type PacketHeader } from './protocol.ts';
import { XdrError, XdrReader, XdrWriter } from './xdr.ts';

/** One packet: its header and what follows it. */
export interface Packet {
  header: PacketHeader;
  payload: Buffer;
}

const START_BYTES = LENGTH_BYTES + HEADER_BYTES;

/** The bytes of one packet. Throws XdrError on a payload the daemon would close the connection for. */
export function packetBytes(header: Omit<PacketHeader, 'length'>, payload: Buffer): Buffer {
  const length = START_BYTES + payload.length;
  if (length - LENGTH_BYTES > MESSAGE_MAX_BYTES) {
    throw new XdrError(`a message of ${length} bytes is longer than libvirt takes (${MESSAGE_MAX_BYTES})`);
  }
  const writer = new XdrWriter();
  packetHeader.write(writer, { ...header, length });
  return Buffer.concat([writer.bytes(), payload]);
}

/** Cuts packets out of a byte stream, however the stream splits them. */
export class PacketReader {
  #chunks: Buffer[] = [];
  #bytes = 0;

  /** The packets that are complete now. Throws XdrError on a length no daemon sends; the stream is of no use then. */
  *push(chunk: Buffer): Generator<Packet> {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#bytes >= LENGTH_BYTES) {
      const length = this.#peek(LENGTH_BYTES).readUInt32BE();
      if (length < START_BYTES || length - LENGTH_BYTES > MESSAGE_MAX_BYTES) {
        throw new XdrError(`a packet claims a length of ${length} bytes`);
      }
      if (this.#bytes < length) return;
      const packet = this.#take(length);
      yield {
        header: packetHeader.read(new XdrReader(packet.subarray(0, START_BYTES))),
        payload: packet.subarray(START_BYTES),
      };
    }
  }

  /** The first bytes as one buffer; joins the chunks only when they are split there. */
  #peek(length: number): Buffer {
    const first = this.#chunks[0];
    if (first !== undefined && first.length >= length) return first;
    const joined = Buffer.concat(this.#chunks);
    this.#chunks = [joined];
    return joined;
  }

  #take(length: number): Buffer {
    const joined = this.#peek(length);
    const rest = joined.subarray(length);
    if (rest.length > 0) this.#chunks[0] = rest;
    else this.#chunks.shift();
    this.#bytes -= length;
    return joined.subarray(0, length);
  }
}
