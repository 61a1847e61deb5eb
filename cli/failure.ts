import { CommanderError } from 'commander';
import { Stopped } from './stop-signal.ts';
import { WrongUsage } from './wrong-usage.ts';

export interface CommandFailure {
  /** A name of docs/failures.md, or `Cancelled`, `Terminated`, `UsageError`, `Error`. */
  type: string;
  message: string;
  /** 1 failed, 2 wrong usage. */
  exitCode: 1 | 2;
}

/** What a command says of an error it ended with. */
export async function describeError(error: unknown): Promise<CommandFailure> {
  if (error instanceof CommanderError) return describeUsage(error);
  if (error instanceof WrongUsage) return { type: error.type, message: error.message, exitCode: 2 };
  if (error instanceof Stopped) return { type: 'Cancelled', message: error.message, exitCode: 1 };
  const { describeFailure } = await import('../operations/describe-failure.ts'); // slow to load, seldom needed
  const { type, message, isUsage } = describeFailure(error);
  return { type, message, exitCode: isUsage ? 2 : 1 };
}

function describeUsage({ code, message }: CommanderError): CommandFailure {
  // A value that a schema refuses is the same failure whether the command line or a workflow finds it.
  if (code === 'commander.invalidArgument') return { type: 'InvalidRequest', message: plain(message), exitCode: 2 };
  if (code === 'commander.help') {
    return { type: 'UsageError', message: 'a command is missing; see --help', exitCode: 2 };
  }
  return { type: 'UsageError', message: plain(message), exitCode: 2 };
}

const plain = (message: string): string => message.replace(/^error: /, '');
