import { describe, expect, it } from 'vitest';
import { ExactReader, push } from '../../nbd/channel.ts';
import { greet, negotiateExport, negotiateList } from '../../nbd/handshake.ts';
import {
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  OPT_GO,
  OPT_LIST,
  OPT_STRUCTURED_REPLY,
  REP_ACK,
  REP_INFO,
  REP_SERVER,
} from '../../nbd/protocol.ts';
import { greeting, reply } from './fake-nbd-server.ts';
import { nbdkit, nbdkitSimple, qemu } from './recordings.ts';

/** Runs a handshake against bytes that arrive in the given pieces. */
async function shake<T>(
  pieces: Buffer[],
  negotiate: (wire: { write(bytes: Uint8Array): void }, reader: ExactReader) => Promise<T>,
) {
  const reader = new ExactReader();
  const sent: Buffer[] = [];
  const wire = { write: (bytes: Uint8Array) => void sent.push(Buffer.from(bytes)) };
  const outcome = greet(wire, reader).then(() => negotiate(wire, reader));
  outcome.catch(() => undefined);
  for (const piece of pieces) {
    push(reader, piece);
    await Promise.resolve();
  }
  reader.lost(new Error('no more bytes'));
  return { result: await outcome, sent: Buffer.concat(sent), leftOver: reader.leftOver };
}

const negotiating =
  (exportName: string, contexts: string[]) => (wire: { write(bytes: Uint8Array): void }, reader: ExactReader) =>
    negotiateExport(wire, reader, exportName, contexts);

function info(kind: number, lengthBytes: number, write: (data: Buffer) => void = () => undefined): Buffer {
  const data = Buffer.alloc(lengthBytes);
  data.writeUInt16BE(kind);
  write(data);
  return reply(OPT_GO, REP_INFO, data);
}
const exportInfo = (size: bigint) => info(INFO_EXPORT, 12, (data) => void data.writeBigUInt64BE(size, 2));
const blockSizes = (min: number, max: number) =>
  info(INFO_BLOCK_SIZE, 14, (data) => {
    data.writeUInt32BE(min, 2);
    data.writeUInt32BE(max, 10);
  });
const structured = reply(OPT_STRUCTURED_REPLY, REP_ACK);
const goAck = reply(OPT_GO, REP_ACK);

describe('NBD handshake', () => {
  it('reads what QEMU says of an export', async () => {
    const { result } = await shake([qemu.handshake], negotiating(qemu.exportName, qemu.contexts));
    expect(result).toEqual({
      info: { sizeBytes: 1048576, isReadOnly: true, canMultiConn: true, minBlockBytes: 1, maxBlockBytes: 33554432 },
      hasStructuredReplies: true,
      contexts: new Map([
        [0, 'base:allocation'],
        [2, 'qemu:dirty-bitmap:b0'],
      ]),
    });
  });

  it('sends greeting flags and options as the protocol writes them', async () => {
    const { sent } = await shake([nbdkit.handshake], negotiating('x', ['base:allocation']));
    const hex = (text: string) => Buffer.from(text).toString('hex');
    const option = hex('IHAVEOPT');
    const expected = [
      ['00000003'],
      [option, '00000008', '00000000'],
      [option, '0000000a', '0000001c', '00000001', hex('x'), '00000001', '0000000f', hex('base:allocation')],
      [option, '00000007', '00000009', '00000001', hex('x'), '0001', '0003'],
    ];
    expect(sent.toString('hex')).toBe(expected.flat().join(''));
  });

  it.each([
    ['QEMU', qemu],
    ['nbdkit', nbdkit],
    ['nbdkit without structured replies', nbdkitSimple],
  ])('understands %s when its bytes are cut at any place', async (_, { handshake, exportName, contexts }) => {
    const whole = await shake([handshake], negotiating(exportName, contexts));
    for (let cut = 1; cut < handshake.length; cut++) {
      const { result, leftOver } = await shake(
        [handshake.subarray(0, cut), handshake.subarray(cut)],
        negotiating(exportName, contexts),
      );
      expect(result).toEqual(whole.result);
      expect(leftOver).toBe(0);
    }
    const single = await shake(
      [...handshake].map((byte) => Buffer.of(byte)),
      negotiating(exportName, contexts),
    );
    expect(single.result).toEqual(whole.result);
  });

  it('lists exports, cut at any place', async () => {
    for (let cut = 0; cut < qemu.list.length; cut++) {
      expect((await shake([qemu.list.subarray(0, cut), qemu.list.subarray(cut)], negotiateList)).result).toEqual([
        'disk',
      ]);
    }
  });

  it('works without structured replies when no context is wanted', async () => {
    const { result } = await shake([nbdkitSimple.handshake], negotiating('', []));
    expect(result.hasStructuredReplies).toBe(false);
  });

  it('fails with the reason when contexts are wanted and there are no structured replies', async () => {
    await expect(shake([nbdkitSimple.handshake], negotiating('', ['base:allocation']))).rejects.toMatchObject({
      name: 'NbdRefused',
      code: 'unsupported',
    });
  });

  it('names the context that the server lacks', async () => {
    await expect(
      shake([nbdkit.handshake], negotiating('', ['base:allocation', 'qemu:dirty-bitmap:b1'])),
    ).rejects.toThrow('no metadata context qemu:dirty-bitmap:b1');
  });

  it.each([
    [6, 'unknown'],
    [5, 'tls-required'],
    [7, 'shutdown'],
    [2, 'policy'],
    [77, 'other'],
  ])('reports refusal %i as "%s" with what the server said', async (number, code) => {
    const refusal = reply(OPT_GO, 0x80000000 + number, Buffer.from('go away'));
    await expect(shake([greeting(), structured, refusal], negotiating('disk', []))).rejects.toMatchObject({
      name: 'NbdRefused',
      code,
      message: expect.stringContaining('go away') as unknown,
    });
  });

  it.each<[string, Buffer[], string]>([
    ['is no NBD server', [Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian')], 'no NBD server'],
    ['is oldstyle', [greeting(3, undefined, 0x00420281861253n)], 'oldstyle'],
    ['lacks fixed newstyle', [greeting(0)], 'fixed newstyle'],
    ['answers another option', [greeting(), reply(OPT_LIST, REP_ACK)], 'unexpected NBD reply'],
    [
      'claims a giant reply',
      [greeting(), reply(OPT_STRUCTURED_REPLY, REP_INFO, undefined, 0xffffffff)],
      '4294967295 bytes',
    ],
    ['tells no size', [greeting(), structured, goAck], 'did not tell the size'],
    [
      'tells a size beyond 8 PiB',
      [greeting(), structured, exportInfo(1n << 63n), goAck],
      'NBD export of 9223372036854776000 bytes',
    ],
    ['cuts its information short', [greeting(), structured, info(INFO_EXPORT, 8), goAck], 'kind 0 has 8 bytes'],
    ['has block size 0', [greeting(), structured, exportInfo(512n), blockSizes(0, 512), goAck], 'block sizes from 0'],
    ['has an odd block size', [greeting(), structured, exportInfo(512n), blockSizes(513, 4096), goAck], 'from 513'],
    [
      'has a smallest block above the largest',
      [greeting(), structured, exportInfo(512n), blockSizes(4096, 512), goAck],
      'to 512',
    ],
  ])('refuses a server that %s', async (_, pieces, message) => {
    const outcome = shake(pieces, negotiating('disk', []));
    await expect(outcome).rejects.toMatchObject({ name: 'NbdProtocolError' });
    await expect(shake(pieces, negotiating('disk', []))).rejects.toThrow(message);
  });

  it('refuses an endless list of exports', async () => {
    const endless = Buffer.concat(Array.from({ length: 20_000 }, () => reply(OPT_LIST, REP_SERVER, Buffer.alloc(4))));
    await expect(shake([greeting(), endless], negotiateList)).rejects.toThrow('more than 16384');
  });

  it('refuses an export name longer than its reply', async () => {
    const data = Buffer.alloc(8);
    data.writeUInt32BE(4000);
    await expect(shake([greeting(), reply(OPT_LIST, REP_SERVER, data)], negotiateList)).rejects.toThrow('4000 bytes');
  });

  it('does not send a name longer than the protocol allows', async () => {
    await expect(shake([greeting(), structured], negotiating('x'.repeat(4097), []))).rejects.toThrow('at most 4096');
  });
});
