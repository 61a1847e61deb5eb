import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { describeFailure } from '../operations/describe-failure.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { isLoopback } from './listen-address.ts';
import { openApi } from './open-api.ts';
import { routes, type Route, type Services } from './routes.ts';

const BODY_LIMIT_BYTES = 64 * 1024;

/** Statuses of the failures that are the caller's; every other is 500, and Temporal out of reach is 503. */
const STATUS: Record<string, number> = {
  InvalidRequest: 400,
  UsageError: 400,
  VmNotFound: 404,
  BackupNotFound: 404,
  JobNotFound: 404,
  HostNotFound: 404,
  RepositoryNotFound: 404,
  OfferingNotFound: 404,
  VmAmbiguous: 409,
  TemporalUnreachable: 503,
};

export interface ApiOptions extends Services {
  /** Without one everybody who reaches the port may do everything. */
  token: string | undefined;
  version: string;
}

/** The HTTP API, not listening yet. Errors are `{"error":{"type","message"}}`, as on the command line. */
export function createApi(options: ApiOptions): Server {
  const document = JSON.stringify(openApi(options.version));
  return createServer((request, response) => {
    answer(request, options, document).then(
      ({ status, body }) => send(response, status, body),
      (error: unknown) => {
        const { type, message } = describeFailure(error);
        send(response, STATUS[type] ?? 500, JSON.stringify({ error: { type, message } }));
      },
    );
  });
}

interface Answer {
  status: number;
  body: string;
}

async function answer(request: IncomingMessage, options: ApiOptions, document: string): Promise<Answer> {
  const url = new URL(request.url ?? '/', 'http://api');
  if (request.method === 'GET' && url.pathname === '/healthz') return { status: 200, body: '{"status":"ok"}' };
  if (options.token !== undefined && !isAllowed(request, options.token)) {
    return problem(401, 'Unauthorized', 'send the header: Authorization: Bearer TOKEN');
  }
  // Pages in a browser on this machine reach a loopback port as well; their requests tell by their origin, or by the
  // name under which they found it (DNS rebinding).
  if (options.token === undefined && (request.headers.origin !== undefined || !isForLoopback(request))) {
    return problem(403, 'Forbidden', 'without a token the API is not for pages in a browser, nor under another name');
  }
  if (request.method === 'GET' && url.pathname === '/openapi.json') return { status: 200, body: document };
  const found = routes.flatMap((route) => {
    const match = new URLPattern({ pathname: route.path }).exec({ pathname: url.pathname });
    return match === null ? [] : [{ route, parameters: match.pathname.groups }];
  });
  const chosen = found.find(({ route }) => route.method === request.method);
  if (chosen === undefined) {
    return found.length === 0
      ? problem(404, 'NotFound', `there is nothing at ${url.pathname}; see /openapi.json`)
      : problem(405, 'MethodNotAllowed', `${request.method ?? ''} is not for ${url.pathname}`);
  }
  return await handle(chosen.route, request, url, chosen.parameters, options);
}

async function handle(
  route: Route,
  request: IncomingMessage,
  url: URL,
  parameters: Record<string, string | undefined>,
  services: Services,
): Promise<Answer> {
  const result = await route.handle(services, {
    parameters,
    query: Object.fromEntries(url.searchParams),
    body: route.method === 'POST' ? await readJson(request) : undefined,
  });
  return { status: route.status, body: JSON.stringify(result) };
}

const isForLoopback = ({ headers }: IncomingMessage): boolean =>
  isLoopback(new URL(`http://${headers.host ?? 'localhost'}`).hostname.replace(/^\[(.*)\]$/, '$1'));

/** Compares digests: the time it takes tells nothing of the token, not even its length. */
function isAllowed({ headers }: IncomingMessage, token: string): boolean {
  const [scheme, given = ''] = (headers.authorization ?? '').split(' ');
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return scheme?.toLowerCase() === 'bearer' && timingSafeEqual(digest(given), digest(token));
}

/** @throws HoldfastError InvalidRequest */
async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_LIMIT_BYTES) {
      throw new HoldfastError('InvalidRequest', `the body is larger than ${BODY_LIMIT_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  if (bytes === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (error) {
    throw new HoldfastError('InvalidRequest', 'the body is no JSON', { cause: error });
  }
}

const problem = (status: number, type: string, message: string): Answer => ({
  status,
  body: JSON.stringify({ error: { type, message } }),
});

function send(response: ServerResponse, status: number, body: string): void {
  const headers = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' };
  response.writeHead(status, status === 401 ? { ...headers, 'www-authenticate': 'Bearer' } : headers).end(body);
}
