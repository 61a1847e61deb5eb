import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { endProcess, until } from './processes.ts';
import { run } from './run.ts';

/** An sshd on the loopback with keys of its own, which lets one key in. */
export interface Sshd extends AsyncDisposable {
  readonly port: number;
  readonly user: string;
  /** Private key it lets in. */
  readonly keyFile: string;
  /** Knows this sshd's host key. */
  readonly knownHostsFile: string;
  /** Of its host key, as `ssh-keygen -l` prints it. */
  readonly fingerprint: string;
  /** Ends it and every connection through it. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** Needs openssh-server; `dir` must be an absolute path. */
export async function startSshd(dir: string): Promise<Sshd> {
  await mkdir(dir, { recursive: true });
  await mkdir('/run/sshd', { recursive: true }); // where its unprivileged half lives
  const [hostKey, keyFile] = [join(dir, 'host-key'), join(dir, 'client-key')];
  const knownHostsFile = join(dir, 'known_hosts');
  for (const file of [hostKey, keyFile]) await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file]);
  const port = await freePort();
  const publicKey = (await readFile(`${hostKey}.pub`, 'utf8')).split(' ').slice(0, 2).join(' ');
  await writeFile(knownHostsFile, `[127.0.0.1]:${port} ${publicKey}\n`);
  await writeFile(join(dir, 'authorized_keys'), await readFile(`${keyFile}.pub`));
  const config = join(dir, 'sshd_config');
  await writeFile(
    config,
    `ListenAddress 127.0.0.1:${port}
HostKey ${hostKey}
AuthorizedKeysFile ${join(dir, 'authorized_keys')}
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
AllowStreamLocalForwarding yes
`,
  );
  const { stdout } = await run('ssh-keygen', ['-lf', `${hostKey}.pub`]);
  let pid: number | undefined;
  const start = async (): Promise<void> => {
    const log = openSync(join(dir, 'sshd.log'), 'a');
    const child = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', config], { stdio: ['ignore', log, log] });
    closeSync(log);
    child.unref();
    pid = child.pid;
    await until('sshd listens', () => listens(port));
  };
  const stop = async (): Promise<void> => {
    if (pid === undefined) return;
    // A session is a child of the listener and would outlive it.
    const sessions = descendants(pid);
    await Promise.all([pid, ...sessions].map((one) => endProcess(one)));
    pid = undefined;
  };
  await start();
  return {
    port,
    user: userInfo().username,
    keyFile,
    knownHostsFile,
    fingerprint: stdout.toString().split(' ')[1] ?? '',
    start,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

function descendants(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        resolve(typeof address === 'object' && address !== null ? address.port : 0);
      });
    });
  });

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
