import Table from 'cli-table3';

/** Where a command writes: people get text on stdout, scripts one JSON document; progress goes to stderr. */
export class Output {
  readonly isJson: boolean;
  readonly isTerminal: boolean;
  constructor({ json }: { json: boolean }) {
    this.isJson = json;
    this.isTerminal = process.stderr.isTTY;
  }

  /** The command's result: `data` for scripts, `text` for people. */
  result(data: unknown, text: () => string): void {
    process.stdout.write(this.isJson ? `${JSON.stringify(data, null, 2)}\n` : `${harmless(text())}\n`);
  }

  /** A line for people while the command works. */
  note(line: string): void {
    if (!this.isJson) process.stderr.write(`${harmless(line)}\n`);
  }

  /** The command failed: JSON on stderr for scripts, a sentence for people. */
  error(type: string, message: string): void {
    process.stderr.write(
      this.isJson ? `${JSON.stringify({ error: { type, message } })}\n` : `holdfast: ${harmless(message)}\n`,
    );
  }
}

/** Names come from repositories, guests and servers: none of them may move the cursor or colour what a person reads. */
const harmless = (text: string): string =>
  text.replaceAll(CONTROLS, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`);
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** A plain table without lines; `nothing` instead of an empty one. */
export function table(head: string[], rows: (string | number | null)[][], nothing: string): string {
  if (rows.length === 0) return nothing;
  const chars = Object.fromEntries(
    'top top-mid top-left top-right bottom bottom-mid bottom-left bottom-right left left-mid mid mid-mid right right-mid'
      .split(' ')
      .map((edge) => [edge, '']),
  );
  const drawn = new Table({
    head,
    chars: { ...chars, middle: '  ' },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [] },
  });
  for (const row of rows) drawn.push(row.map((cell) => String(cell ?? '-')));
  return drawn
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

/** 1536 → `1.5 KiB`. */
export function sizeText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}

/** 61500 → `1 min 2 s`; 1530 → `1.5 s`. */
export function durationText(ms: number): string {
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The first eight characters name a backup well enough for a table. */
export const shortId = (id: string): string => id.slice(0, 8);
