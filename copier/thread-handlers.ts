/** Kind of task → module that exports `handle`; a thread imports it when the first task of that kind arrives. */
export const COPIER_HANDLERS: Readonly<Record<string, string>> = {
  'copy-segment': new URL('./copy-segment.ts', import.meta.url).href,
  'fingerprint-segment': new URL('./fingerprint-segment.ts', import.meta.url).href,
  'recrypt-segment': new URL('./recrypt-segment.ts', import.meta.url).href,
  'restore-segment': new URL('./restore-segment.ts', import.meta.url).href,
  'rewrite-segment': new URL('./rewrite-segment.ts', import.meta.url).href,
  'transfer-segment': new URL('./transfer-segment.ts', import.meta.url).href,
  'verify-segment': new URL('./verify-segment.ts', import.meta.url).href,
};
