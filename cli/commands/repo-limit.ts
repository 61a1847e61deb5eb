import { InvalidArgumentError, type Command } from 'commander';
import { readBandwidth, writeBandwidth } from '../../repository/bandwidth.ts';
import { openRepository } from '../../repository/identity.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { isTimeZone, type Bandwidth, type BandwidthRule } from '../../schemas/bandwidth.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { bandwidthText, parseBandwidthRule, parseBytesPerSecond } from '../bandwidth-rules.ts';
import { action } from '../context.ts';
import { parseName } from './dev.ts';
import { WrongUsage } from '../wrong-usage.ts';

interface LimitFlags {
  rate?: number | null;
  at?: BandwidthRule[];
  timezone?: string;
  off?: boolean;
}

/** @param repo the command `holdfast repo` */
export function addRepoLimitCommand(repo: Command): void {
  repo
    .command('limit')
    .description('show or change how fast each host may write to a repository, copies that run included')
    .argument('<name>', 'name of the repository', parseName)
    .option(
      '--rate <bytes>',
      'bytes per second where no --at holds, like 50M; none = as fast as it goes',
      parseBytesPerSecond,
    )
    .option(
      '--at <rule>',
      'another rate at some hours of the week, like "mon-fri 08:00-18:00=10M"; may be repeated, the first that holds counts',
      (value: string, former: BandwidthRule[] | undefined) => [...(former ?? []), parseBandwidthRule(value)],
    )
    .option('--timezone <name>', "zone of --at, like Europe/Berlin (default: this machine's)", parseZone)
    .option('--off', 'take the limit away')
    .addHelpText(
      'after',
      '\nRestores are not slowed down. A running copy follows within seconds.\n\nExamples:\n' +
        '  $ holdfast repo limit main --rate 200M --at "mon-fri 08:00-18:00=20M"\n  $ holdfast repo limit main --off',
    )
    .action(
      action(async (context, name: string, flags: LimitFlags) => {
        requireSense(flags);
        const record = await (await context.catalog()).repositories.find(name);
        if (record === undefined) throw new HoldfastError('RepositoryNotFound', `no repository ${name}`);
        const store = openBlobStore(record.location);
        await openRepository(store, record);
        const limit = flags.off === true ? undefined : changed(await readBandwidth(store), flags);
        if (isChange(flags)) await writeBandwidth(store, limit);
        context.output.result({ repository: name, limit: limit ?? null }, () => `${name}: ${bandwidthText(limit)}`);
      }),
    );
}

/** @throws WrongUsage: a limit must not go by mistake */
function requireSense({ off, rate, at, timezone }: LimitFlags): void {
  if (off !== true || (rate === undefined && at === undefined && timezone === undefined)) return;
  throw new WrongUsage('--off: takes the whole limit away, and goes with no other option');
}

const isChange = ({ rate, at, timezone, off }: LimitFlags): boolean =>
  off === true || rate !== undefined || at !== undefined || timezone !== undefined;

/** @throws WrongUsage */
function changed(former: Bandwidth | undefined, flags: LimitFlags): Bandwidth | undefined {
  if (!isChange(flags)) return former;
  const { rate, at, timezone } = flags;
  if (former === undefined && rate === undefined && at === undefined) {
    throw new WrongUsage('--timezone: there is no limit yet; give --rate or --at');
  }
  return {
    version: 1,
    rate: rate === undefined ? (former?.rate ?? null) : rate,
    rules: at ?? former?.rules ?? [],
    timezone: timezone ?? former?.timezone ?? new Intl.DateTimeFormat().resolvedOptions().timeZone,
  };
}

function parseZone(value: string): string {
  if (isTimeZone(value)) return value;
  throw new InvalidArgumentError(`${value} is no time zone; give a name like Europe/Berlin or UTC`);
}
