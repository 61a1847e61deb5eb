const UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** `90s`, `10m`, `6h`, `1h30m`, `30d`, `2w` in seconds; undefined when it is none of these. */
export function parseSpan(text: string): number | undefined {
  if (!/^(\d{1,6}[smhdw])+$/.test(text)) return undefined;
  let seconds = 0;
  for (const [, count = '', unit = ''] of text.matchAll(/(\d+)([smhdw])/g))
    seconds += Number(count) * (UNITS[unit] ?? 0);
  return seconds;
}

/** 5400 → `1h30m`, as `parseSpan` reads it. */
export function spanText(seconds: number): string {
  let left = seconds;
  const parts: string[] = [];
  for (const unit of ['d', 'h', 'm', 's']) {
    const size = UNITS[unit] ?? 1;
    const count = Math.floor(left / size);
    if (count > 0) parts.push(`${count}${unit}`);
    left -= count * size;
  }
  return parts.length === 0 ? '0s' : parts.join('');
}
