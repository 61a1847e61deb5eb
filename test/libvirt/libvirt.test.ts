import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { connectLibvirt, LibvirtRefused, type LibvirtEvent } from '../../libvirt/libvirt.ts';
import { CALLS } from '../../libvirt/calls.ts';
import { EVENTS } from '../../libvirt/event-messages.ts';
import { fakeDaemon, type FakePeer } from './fake-daemon.ts';

const DOMAIN = { name: 'web-1', uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', id: 3 };
const OTHER = { name: 'db-1', uuid: 'aaaaaaaa-57a4-4d55-9c0c-0e5a1b1c2d3e', id: 4 };

const answersHostname = (peer: FakePeer): void => {
  peer.onCall = (call) => {
    if (call.procedure === CALLS.getHostname.number) call.reply(CALLS.getHostname, { hostname: 'kvm-1' });
    if (call.procedure === CALLS.eventRegister.number) call.reply(CALLS.eventRegister, { callbackId: 1 });
  };
};

describe('the libvirt client', () => {
  it('connects when it is first used, once for many calls', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    expect(daemon.peers).toHaveLength(0);
    expect(await Promise.all(Array.from({ length: 20 }, () => libvirt.hostname()))).toHaveLength(20);
    expect(daemon.peers).toHaveLength(1);
  });

  it('connects again at the call after a loss and does not repeat the one that was lost', async () => {
    await using daemon = await fakeDaemon();
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const lost = libvirt.hostname();
    lost.catch(() => {});
    await expect.poll(() => daemon.peers[0]?.calls.length).toBe(1);
    daemon.peers[0]!.socket.destroy();
    await expect(lost).rejects.toMatchObject({ name: 'LibvirtConnectionLost', sent: true });
    const next = libvirt.hostname();
    await expect.poll(() => daemon.peers[1]?.calls.length).toBe(1);
    daemon.peers[1]!.calls[0]!.reply(CALLS.getHostname, { hostname: 'kvm-1' });
    expect(await next).toBe('kvm-1');
    expect(daemon.peers[1]!.calls).toHaveLength(1);
  });

  it('does not let quick calls wait behind slow ones, nor slow ones behind four others', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const slow = Array.from({ length: 5 }, () => libvirt.suspend(DOMAIN));
    const suspends = (): number =>
      daemon.peers.flatMap(({ calls }) => calls).filter(({ procedure }) => procedure === CALLS.suspend.number).length;
    await expect.poll(suspends).toBe(5);
    expect(await libvirt.hostname()).toBe('kvm-1');
    for (const call of daemon.peers.flatMap(({ calls }) => calls)) {
      if (call.procedure === CALLS.suspend.number) call.reply(CALLS.suspend, {});
    }
    await Promise.all(slow);
  });

  it('says that nothing was sent when there is no daemon, and what may be the matter', async () => {
    await using libvirt = connectLibvirt({ kind: 'unix', path: '/tmp/hf-no-such-socket' });
    await expect(libvirt.hostname()).rejects.toMatchObject({
      name: 'LibvirtConnectionLost',
      sent: false,
      message: expect.stringContaining('libvirtd is not running') as string,
    });
  });

  it('says that nothing was sent when the daemon goes before it let us in', async () => {
    await using daemon = await fakeDaemon((peer) => peer.socket.destroy());
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await expect(libvirt.hostname()).rejects.toMatchObject({ name: 'LibvirtConnectionLost', sent: false });
  });

  it('makes no more calls once it is closed, and ends those under way', async () => {
    await using daemon = await fakeDaemon();
    const libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const pending = libvirt.hostname();
    pending.catch(() => {});
    await expect.poll(() => daemon.peers[0]?.calls.length).toBe(1);
    await libvirt[Symbol.asyncDispose]();
    await expect(pending).rejects.toMatchObject({ name: 'LibvirtConnectionLost' });
    await expect(libvirt.hostname()).rejects.toMatchObject({ sent: false });
    expect(daemon.peers).toHaveLength(1);
  });

  it('does not wait for a daemon that lets nobody in when it is closed', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.authTypes = [2]; // and never answers polkit
    });
    const libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const events = libvirt.events();
    const call = libvirt.hostname();
    call.catch(() => {});
    await expect.poll(() => daemon.peers[1]?.calls.length).toBe(1);
    await libvirt[Symbol.asyncDispose]();
    await expect(call).rejects.toMatchObject({ name: 'LibvirtConnectionLost', sent: false });
    await expect(events.ready).rejects.toMatchObject({ name: 'LibvirtConnectionLost', sent: false });
    expect(await events.next()).toEqual({ value: undefined, done: true });
  });

  it('does not fail one caller because another was cancelled while both connected', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.authTypes = [2];
      answersHostname(peer);
    });
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const abort = new AbortController();
    const first = libvirt.hostname({ signal: abort.signal });
    const second = libvirt.hostname();
    first.catch(() => {});
    await expect.poll(() => daemon.peers[0]?.calls.length).toBe(1);
    abort.abort(new Error('cancelled'));
    await expect(first).rejects.toThrow('cancelled');
    daemon.peers[0]!.calls[0]!.reply(CALLS.authPolkit, { complete: 1 });
    expect(await second).toBe('kvm-1');
  });

  it('passes a cancellation through while it connects', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.authTypes = [2]; // and never answers polkit
    });
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const abort = new AbortController();
    const call = libvirt.hostname({ signal: abort.signal });
    call.catch(() => {});
    await expect.poll(() => daemon.peers[0]?.calls.length).toBe(1);
    const reason = new Error('cancelled');
    abort.abort(reason);
    await expect(call).rejects.toBe(reason);
  });

  it('does not try again where it is refused', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.authTypes = [1];
    });
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await expect(libvirt.hostname()).rejects.toBeInstanceOf(LibvirtRefused);
  });

  it('gives undefined for what is not there and throws other errors', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.onCall = (call) => {
        if (call.procedure === CALLS.backupGetXml.number) call.fail(104, 'no domain backup job present');
        else call.fail(38, 'Permission denied');
      };
    });
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    expect(await libvirt.backupXml(DOMAIN)).toBeUndefined();
    await expect(libvirt.lookupByName('web-1')).rejects.toMatchObject({ name: 'LibvirtError', code: 38 });
  });
});

describe('events', () => {
  it('go to all who listen, filtered by domain, over one registration', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await using all = libvirt.events();
    await using one = libvirt.events({ uuid: DOMAIN.uuid.toUpperCase() });
    await Promise.all([all.ready, one.ready]);
    const peer = daemon.peers[0]!;
    const registered = peer.calls.map((call) => call.args(CALLS.eventRegister).eventId);
    expect(registered.length).toBe(new Set(registered).size);
    peer.sendEvent(EVENTS.lifecycle, { dom: OTHER, event: 5, detail: 0 });
    peer.sendEvent(EVENTS.blockJob2, { dom: DOMAIN, target: 'vda', type: 5, status: 0 });
    expect((await all.next()).value).toMatchObject({ kind: 'lifecycle', event: 'stopped', domain: OTHER });
    const blockJob = { kind: 'blockJob2', target: 'vda', jobType: 'backup', status: 'completed' };
    expect((await all.next()).value).toMatchObject(blockJob);
    expect((await one.next()).value).toMatchObject(blockJob);
  });

  it('are registered again after a loss, and the gap is told', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await using events = libvirt.events({ uuid: DOMAIN.uuid });
    await events.ready;
    daemon.peers[0]!.socket.destroy();
    expect((await events.next()).value).toEqual({ kind: 'gap' });
    daemon.peers[1]!.sendEvent(EVENTS.agentLifecycle, { dom: DOMAIN, state: 1, reason: 2 });
    expect((await events.next()).value).toMatchObject({ kind: 'agentLifecycle', state: 'connected' });
  });

  it('of an older daemon are those it has', async () => {
    await using daemon = await fakeDaemon((peer) => {
      peer.onCall = (call) => {
        if (call.args(CALLS.eventRegister).eventId === 24) call.fail(1, 'unsupported event ID 24');
        else call.reply(CALLS.eventRegister, { callbackId: 1 });
      };
    });
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await using events = libvirt.events();
    await events.ready;
  });

  it('end with the signal, as an error that passes through', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    const abort = new AbortController();
    const events = libvirt.events({ signal: abort.signal });
    await events.ready;
    const next = events.next();
    next.catch(() => {});
    abort.abort(new Error('cancelled'));
    await expect(next).rejects.toThrow('cancelled');
    expect(await events.next()).toEqual({ value: undefined, done: true });
  });

  it('end for one reader without ending for the others', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await using stays = libvirt.events();
    const goes = libvirt.events();
    await Promise.all([stays.ready, goes.ready]);
    const seen: LibvirtEvent[] = [];
    daemon.peers[0]!.sendEvent(EVENTS.reboot, { dom: DOMAIN });
    for await (const event of goes) {
      seen.push(event);
      break;
    }
    daemon.peers[0]!.sendEvent(EVENTS.reboot, { dom: OTHER });
    await stays.next();
    expect((await stays.next()).value).toMatchObject({ domain: OTHER });
    expect(seen).toHaveLength(1);
  });

  it('fail where the first connection fails', async () => {
    await using libvirt = connectLibvirt({ kind: 'unix', path: '/tmp/hf-no-such-socket' });
    const events = libvirt.events();
    await expect(events.ready).rejects.toMatchObject({ name: 'LibvirtConnectionLost' });
    await expect(events.next()).rejects.toMatchObject({ name: 'LibvirtConnectionLost' });
  });

  it('that nobody reads are dropped for a gap', async () => {
    await using daemon = await fakeDaemon(answersHostname);
    await using libvirt = connectLibvirt({ kind: 'unix', path: daemon.path });
    await using events = libvirt.events();
    await events.ready;
    for (let count = 0; count < 10_001; count++) daemon.peers[0]!.sendEvent(EVENTS.reboot, { dom: DOMAIN });
    daemon.peers[0]!.sendEvent(EVENTS.reboot, { dom: OTHER });
    await libvirt.hostname();
    await expect.poll(() => daemon.peers[0]!.socket.writableLength).toBe(0);
    await turn();
    expect((await events.next()).value).toEqual({ kind: 'gap' });
    expect((await events.next()).value).toMatchObject({ domain: OTHER });
  });
});
