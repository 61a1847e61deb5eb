import { InvalidArgumentError, Option, type Command } from 'commander';
import { offering as offeringSchema, validationCommand, type Offering } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { diskTarget } from '../../schemas/names.ts';
import { retentionRules, type RetentionRules } from '../../schemas/retention.ts';
import { validationStep, type ValidationStep } from '../../schemas/states.ts';
import { parseCopyRules } from '../copy-rules.ts';
import { addRuleOptions, parseAge, ruleFieldsOf, type RuleFlags } from '../retention-options.ts';
import { parseCount, parseName } from './dev.ts';

/** `false` = taken back by `--no-…`; undefined = not spoken of. */
type Clearable<T> = T | false | undefined;

export interface OfferingFlags extends RuleFlags {
  chainSize?: number;
  repo?: Clearable<string>;
  strategy?: string;
  keepCheckpoints?: number;
  quiesce?: string;
  includeDisk?: Clearable<string[]>;
  excludeDisk?: Clearable<string[]>;
  compression?: string;
  validate?: Clearable<ValidationStep[]>;
  validateCommand?: Clearable<string[]>;
  validateExitCode?: number;
  validateOutput?: Clearable<string>;
  validateTimeout?: number;
  bootTimeout?: number;
  endChainOnNotValid?: boolean;
  quickRestore?: boolean;
  retention?: false;
  copyTo?: Clearable<string>;
  copyKeep?: Clearable<RetentionRules>;
  timeLimit?: number;
  compressionTimeLimit?: number;
  tenant?: string;
  priority?: number;
}

/** Declares a flag for every field of an offering. `--no-…` takes back what has no other word for nothing. */
export function addOfferingFlags(command: Command): Command {
  command
    .option(
      '--chain-size <n>',
      'backups of a chain, its full included; 1 = always full, below 1 = unlimited (default 8)',
      parseWhole,
    )
    .option('--repo <name>', 'repository (default: the only one there is)', parseName)
    .option('--no-repo', 'the only repository there is')
    .addOption(
      new Option('--strategy <how>', 'how the point in time is made (default checkpoint)').choices([
        'checkpoint',
        'snapshot',
      ]),
    )
    .option('--keep-checkpoints <n>', 'checkpoints that stay on the VM, 1 to 16 (default 2)', parseCheckpoints)
    .addOption(
      new Option('--quiesce <mode>', 'freeze the guest (default prefer)').choices(['none', 'prefer', 'require']),
    )
    .option('--include-disk <targets...>', 'only these disks, like vda', collectTargets)
    .option('--no-include-disk', 'all disks but the excluded ones')
    .option('--exclude-disk <targets...>', 'disks left out, like vdb', collectTargets)
    .option('--no-exclude-disk', 'no disk is left out')
    .addOption(
      new Option('--compression <how>', 'while copying, as a job after it, or not at all (default inline)').choices([
        'inline',
        'deferred',
        'none',
        'zstd',
      ]),
    )
    .option('--validate <steps>', 'what validates each backup: hash,boot,screenshot,command; or none', parseSteps)
    .option('--no-validate', 'nothing validates the backups')
    .option(
      '--validate-command <argument>',
      'the command, once for each of its arguments; or all of them as one JSON array',
      collect,
    )
    .option('--no-validate-command', 'no command')
    .option('--validate-exit-code <n>', 'what the command must exit with (default 0)', parseWhole)
    .option('--validate-output <text>', 'what it must print, white space at both ends aside (default: whatever)')
    .option('--no-validate-output', 'whatever it prints is fine')
    .option('--validate-timeout <time>', 'how long the command may take (default 60)', parseSeconds)
    .option('--boot-timeout <time>', "how long a validated VM's agent may take to answer (default 240)", parseSeconds)
    .option('--end-chain-on-not-valid', 'a backup that proves not valid ends its chain')
    .option('--no-end-chain-on-not-valid', 'the chain goes on all the same (default)')
    .option('--quick-restore', 'VMs may be restored by booting from the backup')
    .option('--no-quick-restore', 'they may not (default)');
  return addRuleOptions(command)
    .option('--no-retention', 'every backup is kept (default)')
    .option('--copy-to <repository>', 'a second repository, to which each new backup is copied', parseName)
    .option('--no-copy-to', 'new backups are not copied (default)')
    .option('--copy-keep <rules>', 'which copies stay there, like last=3,daily=14,monthly=12', parseCopyRules)
    .option('--no-copy-keep', 'every copy is kept (default)')
    .option('--time-limit <time>', 'for all disks of a run together (default 43200)', parseSeconds)
    .option('--compression-time-limit <time>', 'for a compression after the backup (default 28800)', parseSeconds)
    .option('--tenant <name>', 'whose share of slots its VMs use (default "default")', parseName)
    .option('--priority <n>', '1 first, 5 last (default 3)', parsePriority);
}

/** The offering `before` (a new one: defaults), with what the flags say. @throws HoldfastError InvalidRequest */
export function applyFlags(before: Offering, flags: OfferingFlags): Offering {
  const after = offeringSchema.parse({
    ...before,
    ...given({
      chainSize: flags.chainSize,
      repository: orNull(flags.repo),
      strategy: flags.strategy,
      keepCheckpoints: flags.keepCheckpoints,
      quiesce: flags.quiesce,
      includeDisks: orEmpty(flags.includeDisk),
      excludeDisks: orEmpty(flags.excludeDisk),
      compression: flags.compression,
      copyTo: orNull(flags.copyTo),
      copyRetention: orNull(flags.copyKeep),
      validation: orEmpty(flags.validate),
      bootTimeoutSeconds: flags.bootTimeout,
      endChainOnNotValid: flags.endChainOnNotValid,
      quickRestore: flags.quickRestore,
      timeLimitSeconds: flags.timeLimit,
      compressionTimeLimitSeconds: flags.compressionTimeLimit,
      tenant: flags.tenant,
      priority: flags.priority,
    }),
    validationCommand: commandAfter(before.validationCommand, flags),
    retention: retentionAfter(before.retention, flags),
  });
  const both = after.includeDisks.filter((target) => after.excludeDisks.includes(target));
  if (both.length > 0) {
    throw refused('--exclude-disk', `${both.join(', ')} is also included; give --no-include-disk or leave it out here`);
  }
  if (after.copyTo === null && after.copyRetention !== null) {
    throw refused('--copy-keep', 'nothing is copied; say where to with --copy-to, or give --no-copy-keep');
  }
  if (after.copyTo !== null && after.copyTo === after.repository) {
    throw refused('--copy-to', `${after.copyTo} is the repository that backups go to; name a second one`);
  }
  if (after.validation.includes('command') && after.validationCommand === null) {
    throw refused('--validate', 'the step command has no command; give it with --validate-command');
  }
  return after;
}

/** Whether any flag was given at all. */
export const saysSomething = (flags: OfferingFlags): boolean =>
  Object.values(flags as Record<string, unknown>).some((value) => value !== undefined);

function commandAfter(before: Offering['validationCommand'], flags: OfferingFlags): Offering['validationCommand'] {
  const rest = given({
    exitCode: flags.validateExitCode,
    output: orNull(flags.validateOutput),
    timeoutSeconds: flags.validateTimeout,
  });
  const argv = flags.validateCommand === false ? undefined : argvOf(flags.validateCommand ?? before?.argv);
  if (argv !== undefined) return validationCommand.parse({ ...before, ...rest, argv });
  const [lonely] = Object.entries({
    '--validate-exit-code': flags.validateExitCode,
    '--validate-output': flags.validateOutput === false ? undefined : flags.validateOutput,
    '--validate-timeout': flags.validateTimeout,
  }).find(([, value]) => value !== undefined) ?? [undefined];
  if (lonely !== undefined) throw refused(lonely, 'there is no command; give it with --validate-command');
  return null;
}

/** One argument per flag, as the shell gave it; or, where the only one is a JSON array, its members. */
function argvOf(words: string[] | undefined): string[] | undefined {
  const [only] = words ?? [];
  const argv = words?.length === 1 && only?.trimStart().startsWith('[') === true ? jsonArray(only) : words;
  if (argv === undefined) return undefined;
  if (argv[0] === undefined || argv[0] === '') throw refused('--validate-command', 'the first is the program; name it');
  return argv;
}

function jsonArray(text: string): string[] {
  try {
    const parsed: unknown = JSON.parse(text);
    if (Array.isArray(parsed) && parsed.every((word) => typeof word === 'string')) return parsed;
  } catch {
    // told below
  }
  throw refused('--validate-command', 'begins like a JSON array but is no array of strings, as in ["/bin/true","-x"]');
}

function retentionAfter(before: RetentionRules | null, flags: OfferingFlags): RetentionRules | null {
  const changes = given(ruleFieldsOf(flags));
  if (flags.retention === false) {
    if (Object.keys(changes).length === 0) return null;
    throw refused('--no-retention', 'contradicts --keep-…; give one of them');
  }
  if (Object.keys(changes).length === 0) return before;
  const rules = retentionRules.parse({ ...before, ...changes });
  const { last, hourly, daily, weekly, monthly, yearly } = rules;
  if (last + hourly + daily + weekly + monthly + yearly > 0) return rules;
  throw refused('--keep-last', 'no rule keeps anything; say how much with --keep-…, or give --no-retention');
}

const refused = (flag: string, why: string): HoldfastError => new HoldfastError('InvalidRequest', `${flag}: ${why}`);

const orNull = <T>(value: Clearable<T>): T | null | undefined => (value === false ? null : value);
const orEmpty = <T>(value: Clearable<T[]>): T[] | undefined => (value === false ? [] : value);

/** Without what is undefined: in an update that means "as it was". */
const given = <T extends object>(fields: T): Partial<T> =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Partial<T>;

export function parseWhole(value: string): number {
  const whole = Number(value);
  if (!Number.isSafeInteger(whole) || value.trim() === '') throw new InvalidArgumentError('give a whole number');
  return whole;
}

const within =
  (from: number, to: number) =>
  (value: string): number => {
    const count = parseCount(value);
    if (count < from || count > to) throw new InvalidArgumentError(`give a whole number from ${from} to ${to}`);
    return count;
  };
const parsePriority = within(1, 5);
const parseCheckpoints = within(1, 16);

/** The longest a limit may be: a year says "none" well enough, and Temporal's own timers hold it. */
const LONGEST_SECONDS = 366 * 86_400;

export function parseSeconds(value: string): number {
  const seconds = parseAge(value);
  if (seconds < 1 || seconds > LONGEST_SECONDS) throw new InvalidArgumentError('give a time from 1 s to 366d');
  return seconds;
}

function parseSteps(value: string): ValidationStep[] {
  if (value === 'none') return [];
  const steps = value.split(',').map((step) => validationStep.safeParse(step.trim()));
  if (steps.some(({ success }) => !success)) {
    throw new InvalidArgumentError(`give some of ${validationStep.options.join(',')}, with commas, or none`);
  }
  const chosen = new Set(steps.map(({ data }) => data));
  return validationStep.options.filter((step) => chosen.has(step)); // in the order they are done
}

const collect = (value: string, before: string[] | false | undefined): string[] => [...(before || []), value];

function collectTargets(value: string, before: string[] | false | undefined): string[] {
  const targets = value.split(',');
  for (const target of targets) {
    if (!diskTarget.safeParse(target).success) throw new InvalidArgumentError('give disk targets, like vdb');
  }
  return [...new Set([...(before || []), ...targets])];
}
