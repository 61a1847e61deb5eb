import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { requireRecipient } from '../repository/repository-keys.ts';
import { secretReference, type SecretReference } from '../schemas/repository.ts';
import { WrongUsage } from './wrong-usage.ts';

export interface IdentityOptions {
  identityFile?: string;
  identityEnv?: string;
}

export interface EncryptionOptions extends IdentityOptions {
  encrypt?: boolean;
  recipient?: string[];
  recipientsFile?: string;
  hideNames?: boolean;
}

export const withIdentityOptions = (command: Command, whose: string): Command =>
  command
    .option('--identity-file <path>', `${whose}: a file that its owner alone may read`)
    .option('--identity-env <name>', `${whose}: an environment variable that holds it`);

/** Options of a command that makes a repository. */
export const withEncryptionOptions = (command: Command): Command =>
  withIdentityOptions(
    command
      .option('--encrypt', 'encrypt all that is stored; cannot be changed later')
      .option('--recipient <age1…>', 'who can open it, by public key; may be given several times', collectRecipient)
      .option('--recipients-file <path>', 'the same from a file, one per line')
      .option('--hide-names', 'also keep names, paths and definitions to those who can open it'),
    'where hosts that restore or validate find an age identity',
  );

/**
 * What a new repository is encrypted to; undefined when nothing was asked.
 * @throws WrongUsage for options that do not go together: encryption is never off by mistake
 */
export function encryptionOf(options: EncryptionOptions): { operators: string[]; hideNames: boolean } | undefined {
  const { encrypt = false, recipient = [], recipientsFile, hideNames = false } = options;
  const operators = [...new Set([...recipient, ...(recipientsFile === undefined ? [] : recipientsIn(recipientsFile))])];
  if (encrypt && operators.length > 0) return { operators, hideNames };
  if (encrypt) {
    throw new WrongUsage(
      'recipient: nobody could open the repository; give --recipient age1… (age-keygen -o FILE makes an identity and tells its recipient)',
    );
  }
  if (operators.length === 0 && !hideNames) return undefined;
  throw new WrongUsage('encrypt: --recipient, --recipients-file and --hide-names want --encrypt');
}

/** @throws WrongUsage when both are given */
export function identityOf({ identityFile, identityEnv }: IdentityOptions): SecretReference | undefined {
  if (identityFile !== undefined && identityEnv !== undefined) {
    throw new WrongUsage('identity: give --identity-file or --identity-env, not both');
  }
  if (identityFile !== undefined) return secretReference.parse({ kind: 'file', path: resolve(identityFile) });
  if (identityEnv === undefined) return undefined;
  const parsed = secretReference.safeParse({ kind: 'env', name: identityEnv });
  if (parsed.success) return parsed.data;
  throw new WrongUsage(`identity-env: ${JSON.stringify(identityEnv)} is no name of a variable`);
}

/** An argument that must be a recipient. */
export function parseRecipient(text: string): string {
  try {
    return requireRecipient(text);
  } catch (error) {
    if (error instanceof RangeError) throw new InvalidArgumentError(error.message);
    throw error;
  }
}

const collectRecipient = (text: string, before: string[] = []): string[] => [...before, parseRecipient(text)];

function recipientsIn(path: string): string[] {
  return linesOf(path)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map(parseRecipient);
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split(/\r?\n/);
  } catch (error) {
    throw new WrongUsage(`--recipients-file: ${path} cannot be read: ${String(error)}`);
  }
}
