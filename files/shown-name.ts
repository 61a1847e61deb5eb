/** Characters that a terminal or a reader could be deceived with: controls, line ends, and what turns the writing around. */
const DECEIVING = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu;

/**
 * A name from inside a guest as people may see it: on one line, with what is not plain text as `\n`, `\x1b` or `\u{202e}`, and
 * bytes that are no UTF-8 as `\xff`. A backslash is doubled, so two names never look the same.
 */
export function shownName(bytes: Uint8Array): string {
  let shown = '';
  for (const part of utf8Parts(bytes)) {
    shown += typeof part === 'string' ? part.replace(DECEIVING, escaped) : `\\x${part.toString(16).padStart(2, '0')}`;
  }
  return shown;
}

/** Whether the bytes are text, so that the text names the same file. */
export const isText = (bytes: Uint8Array): boolean => Buffer.from(Buffer.from(bytes).toString()).equals(bytes);

function escaped(character: string): string {
  if (character === '\\') return '\\\\';
  if (character === '\n') return '\\n';
  if (character === '\t') return '\\t';
  if (character === '\r') return '\\r';
  const code = character.codePointAt(0) ?? 0;
  return code < 0x80 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
}

/** Text, and each byte that belongs to none. */
function* utf8Parts(bytes: Uint8Array): Generator<string | number> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for (let at = 0; at < bytes.length;) {
    const length = [1, 2, 3, 4].find((count) => {
      try {
        decoder.decode(bytes.subarray(at, at + count));
        return at + count <= bytes.length;
      } catch (error) {
        if (error instanceof TypeError) return false; // not a whole character
        throw error;
      }
    });
    yield length === undefined ? (bytes[at] ?? 0) : decoder.decode(bytes.subarray(at, at + length));
    at += length ?? 1;
  }
}
