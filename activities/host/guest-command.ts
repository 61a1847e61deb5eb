import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { LibvirtError, type Domain, type Libvirt } from '../../libvirt/libvirt.ts';
import type { ValidationCommand } from '../../schemas/catalog.ts';
import type { StepResult } from '../../schemas/validation.ts';

const AGENT_SECONDS = 10;
const SHOWN_CHARACTERS = 400;

/** Source: QEMU docs/interop/qemu-ga-ref, `guest-info`, `guest-exec`, `guest-exec-status` */
const guestInfo = z.object({ supported_commands: z.array(z.object({ name: z.string(), enabled: z.boolean() })) });
const started = z.object({ pid: z.int() });
const status = z.object({
  exited: z.boolean(),
  exitcode: z.int().optional(),
  signal: z.int().optional(),
  'out-data': z.string().optional(),
  'err-data': z.string().optional(),
  'out-truncated': z.boolean().optional(),
});
type Status = z.infer<typeof status>;

/**
 * Runs a program in the guest, by its agent and without a shell, and compares how it ends and what it prints.
 * @throws LibvirtError and the like when the guest cannot be asked any more
 */
export async function runInGuest(
  libvirt: Libvirt,
  domain: Domain,
  command: ValidationCommand,
  { signal }: { signal: AbortSignal },
): Promise<Pick<StepResult, 'result' | 'detail'>> {
  const ask = (execute: string, parameters?: object): Promise<unknown> =>
    libvirt.agentCommand(domain, { execute, ...(parameters && { arguments: parameters }) }, AGENT_SECONDS, { signal });
  const { supported_commands: supported } = guestInfo.parse(await ask('guest-info'));
  for (const needed of ['guest-exec', 'guest-exec-status']) {
    if (supported.some(({ name, enabled }) => name === needed && enabled)) continue;
    return { result: 'unable', detail: `the guest agent does not allow ${needed}; its configuration may block it` };
  }
  const [path, ...arg] = command.argv;
  let pid: number;
  try {
    ({ pid } = started.parse(await ask('guest-exec', { path, arg, 'capture-output': true })));
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error;
    return { result: 'failed', detail: `${path ?? ''} was not started: ${error.message}` };
  }
  const deadline = Date.now() + command.timeoutSeconds * 1000;
  for (let waitMs = 50; ; waitMs = Math.min(waitMs * 2, 1000)) {
    const now = status.parse(await ask('guest-exec-status', { pid }));
    if (now.exited) return judge(command, now);
    if (Date.now() > deadline) {
      return { result: 'failed', detail: `${path ?? ''} did not end within ${command.timeoutSeconds} s` };
    }
    await sleep(waitMs, undefined, { signal });
  }
}

/** Whether a program that has ended did what was expected of it. */
export function judge(command: ValidationCommand, ended: Status): Pick<StepResult, 'result' | 'detail'> {
  const printed = decoded(ended['out-data']);
  const said = [
    ...(printed === '' ? [] : [`printed ${shown(printed)}`]),
    ...(decoded(ended['err-data']) === '' ? [] : [`complained ${shown(decoded(ended['err-data']))}`]),
  ].join(', ');
  const failed = (detail: string) => ({
    result: 'failed' as const,
    detail: `${command.argv[0] ?? ''} ${detail}${said === '' ? '' : `; it ${said}`}`,
  });
  if (ended.signal !== undefined && ended.signal !== 0) return failed(`was ended by signal ${ended.signal}`);
  if (ended.exitcode === undefined) return failed('ended, but the guest agent does not tell how');
  if (ended.exitcode !== command.exitCode) {
    return failed(`ended with exit code ${ended.exitcode}, expected was ${command.exitCode}`);
  }
  if (command.output !== null && printed !== command.output.trim()) {
    const found = printed === '' ? 'nothing' : shown(printed);
    const cut = ended['out-truncated'] === true ? ' (cut off by the guest agent)' : '';
    return {
      result: 'failed',
      detail: `${command.argv[0] ?? ''} printed ${found}${cut}, expected was ${shown(command.output.trim())}`,
    };
  }
  return {
    result: 'passed',
    detail: `${command.argv[0] ?? ''} ended with exit code ${ended.exitcode}${printed === '' ? '' : ` and printed ${shown(printed)}`}`,
  };
}

const decoded = (data = ''): string => Buffer.from(data, 'base64').toString('utf8').trim();

const shown = (output: string): string =>
  JSON.stringify(output.length > SHOWN_CHARACTERS ? `${output.slice(0, SHOWN_CHARACTERS)}…` : output);
