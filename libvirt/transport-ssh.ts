import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { Client, type ConnectConfig, type ServerHostKeyAlgorithm } from 'ssh2';
import { abortable } from './abortable.ts';
import { describeAddress, type LibvirtAddress } from './address.ts';
import { LibvirtConnectionLost, LibvirtRefused } from './errors.ts';
import { keyFingerprint, knownHostKeys } from './known-hosts.ts';
import type { Transport } from './transport.ts';

type SshAddress = Extract<LibvirtAddress, { kind: 'ssh' }>;

/** Decides on the key a host shows; says why not. */
interface HostKeyCheck {
  /** What to ask the host for, so that it shows a key we know rather than its favourite. */
  algorithms: ServerHostKeyAlgorithm[] | undefined;
  refusal(key: Buffer): string | undefined;
}

/** Streams to a daemon's unix socket through one SSH connection; sshd must allow AllowStreamLocalForwarding. */
export class SshTransport implements Transport {
  readonly #address: SshAddress;
  #client: Promise<Client> | undefined;
  /** Also those that are still connecting. */
  readonly #clients = new Set<Client>();

  constructor(address: SshAddress) {
    this.#address = address;
  }

  async open(signal: AbortSignal): Promise<Duplex> {
    const client = await abortable(this.#connected(), signal);
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    const onAbort = (): void => reject(signal.reason as Error);
    const onClose = (): void => reject(this.#lost(new Error('the SSH connection ended')));
    signal.addEventListener('abort', onAbort, { once: true });
    client.once('close', onClose);
    try {
      client.openssh_forwardOutStreamLocal(this.#address.socketPath, (error, channel) => {
        if (error === undefined) {
          if (signal.aborted) channel.destroy();
          resolve(channel);
        } else {
          // ssh2 tells no more of it: the socket is missing, closed to the user, or sshd forbids forwarding
          reject(
            this.#lost(
              error,
              `no way to ${this.#address.socketPath}: the socket is missing, not permitted to ` +
                `${this.#address.user}, or sshd does not set AllowStreamLocalForwarding`,
            ),
          );
        }
      });
      return await promise;
    } catch (error) {
      if (error instanceof LibvirtConnectionLost || signal.aborted) throw error;
      throw this.#lost(error); // ssh2 throws "Not connected" at once
    } finally {
      signal.removeEventListener('abort', onAbort);
      client.off('close', onClose);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
  }

  /** The one SSH connection; a new one when the last is gone. Callers share the attempt, so none of them can abort it. */
  #connected(): Promise<Client> {
    if (this.#client === undefined) {
      const attempt = this.#connect();
      this.#client = attempt;
      const forget = (): void => {
        if (this.#client === attempt) this.#client = undefined;
      };
      attempt.then((client) => client.once('close', forget), forget);
    }
    return this.#client;
  }

  async #connect(): Promise<Client> {
    const { host, port = 22, user } = this.#address;
    const check = await hostKeyCheck(this.#address);
    const credentials = await this.#credentials();
    const client = new Client();
    this.#clients.add(client);
    const { promise, resolve, reject } = Promise.withResolvers<Client>();
    let refusal: string | undefined;
    client.once('ready', () => resolve(client));
    client.on('error', (error) => {
      if (refusal !== undefined) reject(new LibvirtRefused(refusal, { cause: error }));
      else if (error.level === 'client-authentication') {
        reject(new LibvirtRefused(`${host} does not let ${user} in with this key`, { cause: error }));
      } else reject(this.#lost(error));
    });
    client.once('close', () => {
      this.#clients.delete(client);
      reject(this.#lost(new Error('the SSH connection ended')));
    });
    try {
      client.connect({
        host,
        port,
        username: user,
        ...credentials,
        readyTimeout: 20_000,
        keepaliveInterval: 10_000,
        keepaliveCountMax: 3,
        hostVerifier: (key: Buffer) => {
          refusal = check.refusal(key);
          return refusal === undefined;
        },
        ...(check.algorithms && { algorithms: { serverHostKey: check.algorithms } }),
      });
      return await promise;
    } catch (error) {
      client.destroy();
      throw error;
    }
  }

  async #credentials(): Promise<Pick<ConnectConfig, 'privateKey' | 'agent'>> {
    const { privateKeyFile, host } = this.#address;
    if (privateKeyFile !== undefined) {
      try {
        return { privateKey: await readFile(privateKeyFile) };
      } catch (error) {
        throw new LibvirtRefused(`cannot read the SSH key ${privateKeyFile}`, { cause: error });
      }
    }
    const agent = process.env['SSH_AUTH_SOCK'];
    if (agent !== undefined) return { agent };
    throw new LibvirtRefused(`no SSH key for ${host}: name a key file, or run an agent (SSH_AUTH_SOCK)`);
  }

  #lost(cause: unknown, why = cause instanceof Error ? cause.message : String(cause)): LibvirtConnectionLost {
    return new LibvirtConnectionLost(`cannot reach libvirt at ${describeAddress(this.#address)}: ${why}`, {
      cause,
      sent: false,
    });
  }
}

async function hostKeyCheck(address: SshAddress): Promise<HostKeyCheck> {
  const { host, port = 22, fingerprint } = address;
  if (fingerprint !== undefined) {
    return {
      algorithms: undefined,
      refusal: (key) =>
        keyFingerprint(key) === fingerprint.replace(/=+$/, '')
          ? undefined
          : `the host key of ${host} is ${keyFingerprint(key)}, not the pinned ${fingerprint}`,
    };
  }
  const file = address.knownHostsFile ?? join(homedir(), '.ssh', 'known_hosts');
  const known = knownHostKeys(await readFile(file, 'utf8').catch(() => ''), host, port);
  const trusted = known.filter(({ revoked }) => !revoked);
  if (trusted.length === 0) {
    throw new LibvirtRefused(`${file} has no key of ${host}:${port}; add it, or pin the host's fingerprint`);
  }
  return {
    algorithms: [...new Set(trusted.flatMap(({ type }) => signatureAlgorithms(type)))],
    refusal: (key) => {
      const shown = keyFingerprint(key);
      if (known.some((entry) => entry.revoked && entry.key.equals(key))) return `the host key ${shown} is revoked`;
      if (trusted.some((entry) => entry.key.equals(key))) return undefined;
      return `the host key of ${host} is ${shown}, which ${file} does not know: another machine may be posing as it`;
    },
  };
}

/** An RSA key signs in three ways; the oldest comes last. */
const signatureAlgorithms = (keyType: string): ServerHostKeyAlgorithm[] =>
  keyType === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256', 'ssh-rsa'] : [keyType as ServerHostKeyAlgorithm];
