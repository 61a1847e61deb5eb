import { createHash, createHmac } from 'node:crypto';

/** A line of a known_hosts file that speaks of one host. */
export interface KnownHostKey {
  /** `ssh-ed25519`, ... */
  type: string;
  /** The public key as it goes over the wire. */
  key: Buffer;
  revoked: boolean;
}

/**
 * The keys a known_hosts file has for a host. Understands plain names, patterns (`*`, `?`, `!`), `[host]:port`, hashed
 * names and `@revoked`; certificate authorities are skipped. Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
 */
export function knownHostKeys(file: string, host: string, port: number): KnownHostKey[] {
  const name = port === 22 ? host.toLowerCase() : `[${host.toLowerCase()}]:${port}`;
  return file.split('\n').flatMap((line): KnownHostKey[] => {
    const fields = line.trim().split(/\s+/);
    const marker = fields[0]?.startsWith('@') ? fields.shift() : undefined;
    const [names, type, key] = fields;
    if (names === undefined || type === undefined || key === undefined) return [];
    if (names.startsWith('#') || (marker !== undefined && marker !== '@revoked') || !matches(names, name)) return [];
    return [{ type, key: Buffer.from(key, 'base64'), revoked: marker === '@revoked' }];
  });
}

function matches(names: string, name: string): boolean {
  const hashed = /^\|1\|([^|]+)\|([^|]+)$/.exec(names);
  if (hashed?.[1] !== undefined) {
    return createHmac('sha1', Buffer.from(hashed[1], 'base64')).update(name).digest('base64') === hashed[2];
  }
  const patterns = names.toLowerCase().split(',');
  const isNamed = (pattern: string): boolean => {
    const escaped = pattern
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.');
    return new RegExp(`^${escaped}$`).test(name);
  };
  if (patterns.some((pattern) => pattern.startsWith('!') && isNamed(pattern.slice(1)))) return false;
  return patterns.some((pattern) => isNamed(pattern));
}

/** As `ssh-keygen -l` prints it. */
export const keyFingerprint = (key: Buffer): string =>
  `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
