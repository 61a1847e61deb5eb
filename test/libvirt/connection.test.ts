import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Connection, type ConnectionOptions } from '../../libvirt/connection.ts';
import { LibvirtConnectionLost, LibvirtError, LibvirtRefused, LibvirtTimeout } from '../../libvirt/errors.ts';
import { CALLS } from '../../libvirt/calls.ts';
import { EVENTS } from '../../libvirt/event-messages.ts';
import { MESSAGE_STATUS } from '../../libvirt/protocol.ts';
import { eventBytes, fakePair, type FakePeer } from './fake-daemon.ts';

const DOMAIN = { name: 'web-1', uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', id: 3 };

async function opened(
  options: ConnectionOptions = {},
  prepare: (peer: FakePeer) => void = () => {},
): Promise<{ connection: Connection; peer: FakePeer }> {
  const { socket, peer } = fakePair();
  prepare(peer);
  return { connection: await Connection.open(socket, options), peer };
}

const hostname = (connection: Connection, options?: { signal?: AbortSignal; timeoutMs?: number }): Promise<string> =>
  connection.call(CALLS.getHostname, {}, options).then((reply) => reply.hostname);

describe('a connection', () => {
  it('matches replies that come out of order to their calls', async () => {
    const { connection, peer } = await opened();
    const answers = ['a', 'b', 'c'].map(() => hostname(connection));
    await peer.call(2);
    for (const index of [2, 0, 1]) peer.calls[index]!.reply(CALLS.getHostname, { hostname: `host-${index}` });
    expect(await Promise.all(answers)).toEqual(['host-0', 'host-1', 'host-2']);
  });

  it('reads replies that arrive byte by byte', async () => {
    const { connection, peer } = await opened();
    const write = peer.socket.write.bind(peer.socket);
    peer.socket.write = (bytes: Buffer) => bytes.every((byte) => write(Buffer.of(byte)));
    const answer = hostname(connection);
    (await peer.call(0)).reply(CALLS.getHostname, { hostname: 'kvm-1' });
    expect(await answer).toBe('kvm-1');
  });

  it('has at most four calls under way and sends the next when one is answered', async () => {
    const { connection, peer } = await opened();
    const answers = Array.from({ length: 6 }, () => hostname(connection));
    await peer.call(3);
    await turn();
    expect(peer.calls).toHaveLength(4);
    peer.calls[1]!.reply(CALLS.getHostname, { hostname: 'x' });
    await peer.call(4);
    await turn();
    expect(peer.calls).toHaveLength(5);
    peer.onCall = (call) => call.reply(CALLS.getHostname, { hostname: 'x' });
    for (const index of [0, 2, 3, 4]) peer.calls[index]!.reply(CALLS.getHostname, { hostname: 'x' });
    await Promise.all(answers);
  });

  it('gives libvirt’s error with its number and the name of the call', async () => {
    const { connection, peer } = await opened();
    peer.onCall = (call) => call.fail(42, 'Domain not found: no domain with matching name');
    const error = await connection.call(CALLS.lookupByName, { name: 'nix' }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LibvirtError);
    expect(error).toMatchObject({ code: 42, domain: 10, procedure: 'DOMAIN_LOOKUP_BY_NAME' });
  });

  it('hands over an event that lies in the same read as the reply to its registration', async () => {
    const { connection, peer } = await opened();
    const seen: number[] = [];
    connection.onEvent((procedure) => seen.push(procedure));
    const registered = connection.call(CALLS.eventRegister, { eventId: 0, dom: null });
    const call = await peer.call(0);
    peer.socket.cork();
    call.reply(CALLS.eventRegister, { callbackId: 1 });
    peer.socket.write(eventBytes(EVENTS.lifecycle, { dom: DOMAIN, event: 2, detail: 0 }));
    peer.socket.uncork();
    await registered;
    await turn();
    expect(seen).toEqual([318]);
  });

  it('gives up a call that is not answered in time, as of unknown outcome', async () => {
    const { connection } = await opened();
    const error = await hostname(connection, { timeoutMs: 20 }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LibvirtTimeout);
    expect(error).toMatchObject({ sent: true, message: expect.stringContaining('unknown') as string });
  });

  it('keeps the slot of an abandoned call until the daemon answers it', async () => {
    const { connection, peer } = await opened();
    const abandoned = Array.from({ length: 4 }, () => hostname(connection, { timeoutMs: 20 }));
    await Promise.allSettled(abandoned);
    const answer = hostname(connection);
    await turn();
    expect(peer.calls).toHaveLength(4);
    peer.calls[2]!.reply(CALLS.getHostname, { hostname: 'late' });
    (await peer.call(4)).reply(CALLS.getHostname, { hostname: 'kvm-1' });
    expect(await answer).toBe('kvm-1');
  });

  it('never sends a call that timed out while it waited for a slot', async () => {
    const { connection, peer } = await opened();
    const busy = Array.from({ length: 4 }, () => hostname(connection));
    await expect(hostname(connection, { timeoutMs: 20 })).rejects.toMatchObject({
      name: 'LibvirtTimeout',
      sent: false,
    });
    for (const call of peer.calls) call.reply(CALLS.getHostname, { hostname: 'x' });
    await Promise.all(busy);
    await turn();
    expect(peer.calls).toHaveLength(4);
  });

  it('passes a cancellation through as it is', async () => {
    const { connection } = await opened();
    const reason = new Error('cancelled');
    const abort = new AbortController();
    const answer = hostname(connection, { signal: abort.signal });
    abort.abort(reason);
    await expect(answer).rejects.toBe(reason);
    await expect(hostname(connection, { signal: abort.signal })).rejects.toBe(reason);
  });

  it('tells apart, when it is lost, what was sent and what was not', async () => {
    const { connection, peer } = await opened();
    const answers = Array.from({ length: 5 }, () => hostname(connection));
    await peer.call(3);
    peer.socket.destroy();
    const outcomes = await Promise.allSettled(answers);
    expect(outcomes.map((outcome) => (outcome as PromiseRejectedResult).reason as unknown)).toEqual(
      [true, true, true, true, false].map((sent): unknown =>
        expect.objectContaining({ name: 'LibvirtConnectionLost', sent }),
      ),
    );
    await expect(hostname(connection)).rejects.toMatchObject({ name: 'LibvirtConnectionLost', sent: false });
    expect(connection.isOpen).toBe(false);
  });

  it.each([
    ['an impossible length', Buffer.from('ffffffff20008086', 'hex')],
    [
      'an answer to a call that was never made',
      Buffer.from('0000001c20008086000000010000000100000001000000ff00000000', 'hex'),
    ],
    ['a reply that is cut short', Buffer.from('0000001c20008086000000010000003b000000010000000400000000', 'hex')],
  ])('ends on %s', async (_, bytes) => {
    const { connection, peer } = await opened();
    const answer = hostname(connection);
    await peer.call(0);
    peer.socket.write(bytes);
    const error = await answer.catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LibvirtConnectionLost);
    expect(error).toMatchObject({ sent: true, message: expect.stringContaining('not libvirt') as string });
  });

  it('answers the daemon’s pings', async () => {
    const { peer } = await opened();
    peer.sendPing();
    await peer.until(() => peer.pongs.length === 1);
  });

  it('pings a silent daemon, and is content with its pongs', async () => {
    const { connection, peer } = await opened({ keepaliveIntervalMs: 10, keepaliveCount: 2 });
    await peer.until(() => peer.pings >= 6);
    expect(connection.isOpen).toBe(true);
    connection.close();
  });

  it('is lost when the daemon stays silent', async () => {
    const { connection, peer } = await opened({ keepaliveIntervalMs: 10, keepaliveCount: 3 }, (far) => {
      far.answersPings = false;
    });
    const answer = hostname(connection);
    expect((await connection.closed).message).toContain('keepalive');
    await expect(answer).rejects.toMatchObject({ sent: true });
    expect(peer.pings).toBe(3);
  });

  it('does not ping a daemon without keepalive', async () => {
    const { connection, peer } = await opened({ keepaliveIntervalMs: 5 }, (far) => {
      far.hasKeepalive = false;
    });
    const answer = hostname(connection, { timeoutMs: 40 });
    await expect(answer).rejects.toBeInstanceOf(LibvirtTimeout);
    expect(peer.pings).toBe(0);
  });

  it('says what it lacks when the daemon wants SASL', async () => {
    const { socket, peer } = fakePair();
    peer.authTypes = [1];
    const error = await Connection.open(socket, {}).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LibvirtRefused);
    expect(String(error)).toContain('SASL');
  });

  it('lets polkit decide where the daemon asks for it', async () => {
    const { connection } = await opened({}, (peer) => {
      peer.authTypes = [2];
      peer.onCall = (call) => call.reply(CALLS.authPolkit, { complete: 1 });
    });
    expect(connection.isOpen).toBe(true);
  });

  it('collects the data that follow a reply, and finishes the stream', async () => {
    const { connection, peer } = await opened();
    const shot = connection.callWithData(CALLS.screenshot, { dom: DOMAIN, screen: 0, flags: 0 }, 100);
    const call = await peer.call(0);
    peer.socket.cork(); // all in one read
    call.reply(CALLS.screenshot, { mime: 'image/png' });
    call.stream(MESSAGE_STATUS.CONTINUE, Buffer.from('abc'));
    call.stream(MESSAGE_STATUS.CONTINUE, Buffer.from('defg'));
    call.stream(MESSAGE_STATUS.CONTINUE, Buffer.alloc(0));
    peer.socket.uncork();
    expect(await shot).toEqual({ reply: { mime: 'image/png' }, data: Buffer.from('abcdefg') });
    expect(peer.finishedStreams).toBe(1);
  });

  it('refuses a stream longer than it was told to take', async () => {
    const { connection, peer } = await opened();
    const shot = connection.callWithData(CALLS.screenshot, { dom: DOMAIN, screen: 0, flags: 0 }, 100);
    const call = await peer.call(0);
    call.reply(CALLS.screenshot, { mime: 'image/png' });
    call.stream(MESSAGE_STATUS.CONTINUE, Buffer.alloc(101));
    await expect(shot).rejects.toThrow(/more than 100 bytes/);
  });

  it('refuses an argument that is too long without losing the connection', async () => {
    const { connection, peer } = await opened();
    await expect(connection.call(CALLS.defineXml, { xml: 'x'.repeat(0x400001), flags: 0 })).rejects.toThrow(/longer/);
    const answer = hostname(connection);
    (await peer.call(0)).reply(CALLS.getHostname, { hostname: 'kvm-1' });
    expect(await answer).toBe('kvm-1');
  });
});
