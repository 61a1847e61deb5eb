import { z } from 'zod';

/** `config.json` of an installation; every field may be left out, and an environment variable goes before it. */
export const configuration = z.strictObject({
  /** `sqlite:/path` or `postgres://…`; HOLDFAST_CATALOG. Default: catalog.sqlite in the installation's folder. */
  catalog: z.string().optional(),
  temporal: z
    .strictObject({
      /** host:port; TEMPORAL_ADDRESS. */
      address: z.string().optional(),
      /** TEMPORAL_NAMESPACE. */
      namespace: z.string().optional(),
    })
    .optional(),
  /** After this long without a heartbeat a copy counts as lost and is retried; HOLDFAST_HEARTBEAT_SECONDS. */
  heartbeatSeconds: z.int().positive().max(3600).optional(),
});
export type Configuration = z.infer<typeof configuration>;

/** What `holdfast dev` notes of itself in `run/dev.json`, so that other commands find it. */
export const devState = z.object({
  pid: z.int(),
  temporalAddress: z.string(),
  temporalUi: z.string(),
  /** Address of the HTTP API. */
  api: z.string().optional(),
  host: z.string(),
  libvirt: z.string(),
  /** Process ids by name: temporal, control, host, api. */
  processes: z.record(z.string(), z.int()),
});
export type DevState = z.infer<typeof devState>;
