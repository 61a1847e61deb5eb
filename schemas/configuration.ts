import { z } from 'zod';

/** The server that reports are mailed by. Its password is not here: `passwordFile`, or HOLDFAST_SMTP_PASSWORD. */
export const smtpSettings = z.strictObject({
  host: z.string().min(1),
  /** Default 587, and 465 with `secure`. */
  port: z.int().min(1).max(65_535).optional(),
  /** TLS from the first byte; default where the port is 465. */
  secure: z.boolean().optional(),
  /** Default `required` with a user, else `ifOffered`. */
  startTls: z.enum(['required', 'ifOffered', 'never']).optional(),
  user: z.string().optional(),
  passwordFile: z.string().optional(),
  /** The sender. */
  from: z.string().min(3),
});
export type SmtpSettings = z.infer<typeof smtpSettings>;

/** Where reports go. An address may hold a secret: it is never shown whole. */
export const reportSettings = z.strictObject({
  /** HOLDFAST_REPORT_WEBHOOK goes before it. */
  webhook: z.string().optional(),
  /** A file that holds the address. */
  webhookFile: z.string().optional(),
  smtp: smtpSettings.optional(),
});
export type ReportSettings = z.infer<typeof reportSettings>;

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
  report: reportSettings.optional(),
});

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
