import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createTransport } from 'nodemailer';
import { HoldfastError } from '../schemas/failures.ts';
import type { ReportSettings, SmtpSettings } from '../schemas/configuration.ts';
import type { Report } from '../schemas/report.ts';
import { reportSubject, reportText } from './report-text.ts';

const TIMEOUT_MS = 30_000;
/** A refusal that may pass: the request was too early, or too many came. */
const MAY_PASS = new Set([408, 425, 429]);

/**
 * The address reports are posted to. It may be a secret: no message shows more of it than its host.
 * @throws HoldfastError InvalidRequest when there is none, or it is no http(s) address
 */
export async function webhookAddress({ webhook, webhookFile }: ReportSettings): Promise<URL> {
  const text = webhook ?? (webhookFile === undefined ? undefined : await readSecret('report.webhookFile', webhookFile));
  if (text === undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      'webhook: none is configured; set HOLDFAST_REPORT_WEBHOOK, or report.webhook or report.webhookFile in config.json',
    );
  }
  const address = URL.parse(text.trim());
  if (address !== null && (address.protocol === 'https:' || address.protocol === 'http:')) return address;
  throw new HoldfastError('InvalidRequest', 'webhook: the configured address is no http or https URL');
}

/**
 * Posts the report as JSON. An attempt that is repeated has the same Idempotency-Key.
 * @throws HoldfastError ReportNotDelivered, ReportRefused
 */
export async function postReport(address: URL, report: Report, timeoutMs = TIMEOUT_MS): Promise<void> {
  const { username, password } = address;
  const target = new URL(address);
  target.username = target.password = '';
  const authorization = `Basic ${Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString('base64')}`;
  let response: Response;
  try {
    response = await fetch(target, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'user-agent': 'holdfast',
        'idempotency-key': report.id,
        ...(username === '' ? {} : { authorization }),
      },
      body: JSON.stringify(report),
      redirect: 'error', // an address that is a secret goes nowhere else
      signal: AbortSignal.timeout(timeoutMs),
    });
    await response.body?.cancel();
  } catch (error) {
    // Nothing of the error itself is told: it may name the address.
    const code =
      error instanceof Error && error.name === 'TimeoutError'
        ? `no answer within ${timeoutMs / 1000} s`
        : codeOf(error);
    throw new HoldfastError('ReportNotDelivered', `the webhook at ${address.host} was not reached: ${code}`);
  }
  if (response.ok) return;
  const refused = response.status >= 400 && response.status < 500 && !MAY_PASS.has(response.status);
  throw new HoldfastError(
    refused ? 'ReportRefused' : 'ReportNotDelivered',
    `the webhook at ${address.host} answered ${response.status}`,
  );
}

function codeOf(error: unknown): string {
  for (let link = error; link instanceof Error; link = link.cause) {
    if ('code' in link && typeof link.code === 'string' && /^[A-Z0-9_]+$/.test(link.code)) return link.code;
  }
  return 'the connection failed';
}

/**
 * Mails the report, as text with the JSON attached. An attempt that is repeated has the same Message-ID.
 * @throws HoldfastError InvalidRequest, ReportNotDelivered, ReportRefused
 */
export async function mailReport(
  settings: ReportSettings,
  to: string,
  report: Report,
  timeoutMs = TIMEOUT_MS,
): Promise<void> {
  const { smtp } = settings;
  if (smtp === undefined) {
    throw new HoldfastError('InvalidRequest', 'mail: no SMTP server is configured; set report.smtp in config.json');
  }
  const password = await passwordOf(smtp);
  const { host, user, from } = smtp;
  const secure = smtp.secure ?? smtp.port === 465;
  const port = smtp.port ?? (secure ? 465 : 587);
  const startTls = smtp.startTls ?? (user === undefined ? 'ifOffered' : 'required'); // no password in the clear
  const transport = createTransport({
    host,
    port,
    secure,
    requireTLS: startTls === 'required',
    ignoreTLS: startTls === 'never',
    ...(user === undefined ? {} : { auth: { user, pass: password ?? '' } }),
    connectionTimeout: timeoutMs,
    greetingTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  try {
    await transport.sendMail({
      from,
      to,
      subject: reportSubject(report),
      messageId: `<${report.id}.${createHash('sha256').update(to).digest('hex').slice(0, 8)}@holdfast>`,
      text: reportText(report),
      attachments: [
        { filename: 'report.json', content: JSON.stringify(report, null, 2), contentType: 'application/json' },
      ],
    });
  } catch (error) {
    const code = error instanceof Error && 'responseCode' in error ? Number(error.responseCode) : 0;
    const told = error instanceof Error ? error.message : String(error);
    const cause = password === undefined || password === '' ? told : told.replaceAll(password, '…');
    throw new HoldfastError(
      code >= 500 && code < 600 ? 'ReportRefused' : 'ReportNotDelivered',
      `mail to ${to} by ${host}:${port}: ${cause}`,
    );
  } finally {
    transport.close();
  }
}

async function passwordOf({ passwordFile }: SmtpSettings): Promise<string | undefined> {
  const given = process.env['HOLDFAST_SMTP_PASSWORD'];
  if (given !== undefined) return given;
  return passwordFile === undefined ? undefined : await readSecret('report.smtp.passwordFile', passwordFile);
}

async function readSecret(field: string, path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (error) {
    throw new HoldfastError('InvalidRequest', `${field}: ${path} cannot be read: ${codeOf(error)}`, { cause: error });
  }
}
