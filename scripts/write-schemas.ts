import { mkdir, writeFile } from 'node:fs/promises';
import { jsonSchemas } from './json-schemas.ts';

// Writes docs/schemas anew: `npm run schemas`, after a change of schemas/manifest.ts.
const folder = new URL('../docs/schemas/', import.meta.url);
await mkdir(folder, { recursive: true });
for (const [name, text] of Object.entries(jsonSchemas())) await writeFile(new URL(name, folder), text);
