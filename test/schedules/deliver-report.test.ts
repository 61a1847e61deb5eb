import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SMTPServer, type SMTPServerOptions } from 'smtp-server';
import { describe, expect, it } from 'vitest';
import { mailReport, postReport, webhookAddress } from '../../operations/deliver-report.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { SmtpSettings } from '../../schemas/configuration.ts';
import { tempDir } from '../support/temp.ts';
import { emptyReport } from './empty-report.ts';

const SECRET = 'T0P-s3cret-token';

/** How it failed, and that its words hold no secret. */
async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    expect(`${error.message} ${error.stack ?? ''} ${String(error.cause)}`).not.toContain(SECRET);
    return `${error.type}: ${error.message.replaceAll(/:\d{4,5}/g, ':PORT')}`;
  }
  throw new Error('it did not fail');
}

async function hook(answer: (request: IncomingMessage, response: ServerResponse, body: string) => void) {
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => answer(request, response, body));
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return {
    port,
    url: new URL(`http://127.0.0.1:${port}/hooks/${SECRET}`),
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}

describe('a webhook', () => {
  it('gets the report as JSON, with the same key for every attempt', async () => {
    const seen: { key: unknown; body: unknown; url: string | undefined; authorization: unknown }[] = [];
    let status = 500;
    await using server = await hook((request, response, body) => {
      const { headers, url } = request;
      seen.push({ key: headers['idempotency-key'], body: JSON.parse(body), url, authorization: headers.authorization });
      response.writeHead(status).end('never read');
      status = 200;
    });
    const url = new URL(server.url);
    url.username = 'hold';
    url.password = 'f%40st';
    expect(await failure(postReport(url, emptyReport()))).toBe(
      'ReportNotDelivered: the webhook at 127.0.0.1:PORT answered 500',
    );
    await postReport(url, emptyReport());
    expect(seen).toHaveLength(2);
    expect(seen[1]).toEqual(seen[0]);
    expect(seen[0]).toEqual({
      key: emptyReport().id,
      body: emptyReport(),
      url: `/hooks/${SECRET}`,
      authorization: `Basic ${Buffer.from('hold:f@st').toString('base64')}`,
    });
  });

  it.each([
    [404, 'ReportRefused'],
    [401, 'ReportRefused'],
    [429, 'ReportNotDelivered'],
    [503, 'ReportNotDelivered'],
  ])('that answers %i ends with %s', async (status, type) => {
    await using server = await hook((_request, response) => void response.writeHead(status).end());
    expect(await failure(postReport(server.url, emptyReport()))).toBe(
      `${type}: the webhook at 127.0.0.1:PORT answered ${status}`,
    );
  });

  it('that leads elsewhere is not followed', async () => {
    const elsewhere: string[] = [];
    await using other = await hook((request, response) => {
      elsewhere.push(request.url ?? '');
      response.end();
    });
    await using server = await hook(
      (_request, response) => void response.writeHead(307, { location: `http://127.0.0.1:${other.port}/x` }).end(),
    );
    expect(await failure(postReport(server.url, emptyReport()))).toContain('ReportNotDelivered');
    expect(elsewhere).toEqual([]);
  });

  it('that says nothing is given up', async () => {
    await using server = await hook(() => undefined);
    expect(await failure(postReport(server.url, emptyReport(), 300))).toBe(
      'ReportNotDelivered: the webhook at 127.0.0.1:PORT was not reached: no answer within 0.3 s',
    );
  });

  it('that is not there is told without its address', async () => {
    const url = new URL(`http://127.0.0.1:1/${SECRET}`);
    expect(await failure(postReport(url, emptyReport()))).toMatch(
      /^ReportNotDelivered: the webhook at 127\.0\.0\.1:1 /,
    );
  });

  it.each([
    [{}, 'InvalidRequest: webhook: none is configured'],
    [{ webhook: `ftp://host/${SECRET}` }, 'InvalidRequest: webhook: the configured address is no http'],
    [{ webhook: `not a url ${SECRET}` }, 'InvalidRequest: webhook: the configured address is no http'],
    [
      { webhookFile: '/nonexistent/hook' },
      'InvalidRequest: report.webhookFile: /nonexistent/hook cannot be read: ENOENT',
    ],
  ])('must be configured: %j', async (settings, expected) => {
    expect(await failure(webhookAddress(settings))).toContain(expected);
  });

  it('may stand in a file', async () => {
    await using dir = await tempDir();
    const path = join(dir.path, 'hook');
    await writeFile(path, `https://hooks.example.org/${SECRET}\n`);
    expect((await webhookAddress({ webhookFile: path })).href).toBe(`https://hooks.example.org/${SECRET}`);
  });
});

interface Mail {
  from: string;
  to: string[];
  user: string;
  source: string;
}

async function mailServer(options: SMTPServerOptions = {}) {
  const mails: Mail[] = [];
  const logIns: string[] = [];
  const server = new SMTPServer({
    authOptional: true,
    logger: false,
    onAuth: ({ username, password }, _session, done) => {
      logIns.push(`${username ?? ''}:${password ?? ''}`);
      if (password === SECRET) done(null, { user: username ?? '' });
      else done(new Error(`no such password: ${password ?? ''}`));
    },
    onRcptTo: ({ address }, _session, done) => {
      if (address.startsWith('nobody')) done(Object.assign(new Error('no such mailbox'), { responseCode: 550 }));
      else if (address.startsWith('busy')) done(Object.assign(new Error('try again later'), { responseCode: 451 }));
      else done();
    },
    onData: (stream, session, done) => {
      let source = '';
      stream.on('data', (chunk: Buffer) => (source += chunk.toString()));
      stream.on('end', () => {
        const { mailFrom, rcptTo } = session.envelope;
        mails.push({
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          user: typeof session.user === 'string' ? session.user : '',
          source,
        });
        done();
      });
    },
    ...options,
  });
  server.on('error', () => undefined); // clients that hang up are part of these tests
  await new Promise<void>((done) => void server.listen(0, '127.0.0.1', done));
  const address = server.server.address() as AddressInfo | null;
  const port = address?.port ?? 0;
  const smtp: SmtpSettings = { host: '127.0.0.1', port, from: 'holdfast@example.org', startTls: 'never' };
  return { mails, logIns, smtp, [Symbol.asyncDispose]: () => new Promise<void>((done) => server.close(done)) };
}

describe('mail', () => {
  it('has what matters as subject, the text, the JSON, and the same Message-ID for every attempt', async () => {
    await using server = await mailServer();
    for (const _attempt of [1, 2]) await mailReport({ smtp: server.smtp }, 'ops@example.org', emptyReport());
    expect(server.mails).toHaveLength(2);
    const [mail, again] = server.mails;
    expect(mail).toMatchObject({ from: 'holdfast@example.org', to: ['ops@example.org'] });
    const header = (name: string, source = ''): string | undefined =>
      new RegExp(`^${name}: (.*(?:\\r?\\n .*)*)`, 'im').exec(source)?.[1]?.replaceAll(/\s+/g, ' ').trim();
    expect(header('Subject', mail?.source)).toBe('Holdfast: all well, 0 backups in 1d');
    expect(header('Message-ID', mail?.source)).toMatch(/^<.+@holdfast>$/);
    expect(header('Message-ID', again?.source)).toBe(header('Message-ID', mail?.source));
    expect(mail?.source).toContain('filename=report.json');
  });

  it('logs in with a password from a file', async () => {
    await using server = await mailServer({ allowInsecureAuth: true });
    await using dir = await tempDir();
    const passwordFile = join(dir.path, 'password');
    await writeFile(passwordFile, `${SECRET}\n`);
    await mailReport({ smtp: { ...server.smtp, user: 'holdfast', passwordFile } }, 'ops@example.org', emptyReport());
    expect(server.mails[0]?.user).toBe('holdfast');
  });

  it('sends no password in the clear', async () => {
    await using server = await mailServer({ allowInsecureAuth: true, disabledCommands: ['STARTTLS'] });
    await using dir = await tempDir();
    const passwordFile = join(dir.path, 'password');
    await writeFile(passwordFile, SECRET);
    const { startTls: _never, ...smtp } = { ...server.smtp, user: 'holdfast', passwordFile };
    expect(await failure(mailReport({ smtp }, 'ops@example.org', emptyReport()))).toContain('STARTTLS');
    expect(server).toMatchObject({ mails: [], logIns: [] });
  });

  it('trusts no certificate that nobody vouches for', async () => {
    await using server = await mailServer(); // with a certificate of its own making
    const smtp: SmtpSettings = { ...server.smtp, startTls: 'required' };
    expect(await failure(mailReport({ smtp }, 'ops@example.org', emptyReport()))).toMatch(/certificate/i);
    expect(server.mails).toEqual([]);
  });

  it('that is refused is told, without the password', async () => {
    await using server = await mailServer({ allowInsecureAuth: true });
    const send = (to: string, smtp: SmtpSettings = server.smtp) => failure(mailReport({ smtp }, to, emptyReport()));
    expect(await send('nobody@example.org')).toMatch(
      /^ReportRefused: mail to nobody@example.org by 127.0.0.1:PORT: .*550/,
    );
    expect(await send('busy@example.org')).toMatch(/^ReportNotDelivered: .*451/);
    await using dir = await tempDir();
    const passwordFile = join(dir.path, 'password');
    await writeFile(passwordFile, `wrong-${SECRET}`);
    // This server says the password in its answer, as none should.
    expect(await send('ops@example.org', { ...server.smtp, user: 'holdfast', passwordFile })).toContain('…');
    expect(await send('ops@example.org', { ...server.smtp, port: 1 })).toMatch(/^ReportNotDelivered: .*ECONNREFUSED/);
    expect(await failure(mailReport({}, 'ops@example.org', emptyReport()))).toContain('no SMTP server is configured');
  });
});
