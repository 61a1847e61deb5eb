import { z } from 'zod';
import { routes, type Route } from './routes.ts';

const failure = z.object({ error: z.object({ type: z.string(), message: z.string() }) });

/** The API described for tools, out of the schemas that check it. */
export function openApi(version: string): object {
  const paths: Record<string, Record<string, object>> = {
    '/healthz': {
      get: {
        summary: 'Whether the API answers; needs no token',
        security: [],
        responses: { 200: { description: 'It does' } },
      },
    },
  };
  for (const route of routes) {
    const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route) };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Holdfast', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    security: [{ token: [] }],
    components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
    paths,
  };
}

const operation = ({ path, summary, status, query, body, answer }: Route): object => ({
  summary,
  parameters: [
    ...[...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string' },
    })),
    ...Object.entries(query?.shape ?? {}).map(([name, schema]) => ({
      name,
      in: 'query',
      required: false,
      schema: schemaOf(schema as z.ZodType),
    })),
  ],
  ...(body === undefined ? {} : { requestBody: { required: true, content: json(schemaOf(body)) } }),
  responses: {
    [status]: { description: status === 202 ? 'Accepted' : 'OK', content: json(schemaOf(answer, 'output')) },
    default: { description: 'Failure', content: json(schemaOf(failure, 'output')) },
  },
});

const json = (schema: object): object => ({ 'application/json': { schema } });

function schemaOf(schema: z.ZodType, io: 'input' | 'output' = 'input'): object {
  const { $schema: _dialect, ...described } = z.toJSONSchema(schema, { io });
  return described;
}
