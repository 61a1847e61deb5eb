import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { addOfferingFlags, applyFlags, type OfferingFlags } from '../../cli/commands/offering-flags.ts';
import { offering as offeringSchema, type Offering } from '../../schemas/catalog.ts';

const NEW = offeringSchema.parse({ name: 'gold' });

/** What the command line makes of an offering. */
function after(before: Offering, ...words: string[]): Offering {
  const command = addOfferingFlags(new Command().exitOverride().configureOutput({ writeErr: () => undefined }));
  command.parse(words, { from: 'user' });
  return applyFlags(before, command.opts<OfferingFlags>());
}

describe('flags of an offering', () => {
  it('say nothing: the defaults, or what was there', () => {
    expect(after(NEW)).toEqual(NEW);
    const changed = after(NEW, '--chain-size', '3', '--exclude-disk', 'vdb');
    expect(after(changed)).toEqual(changed);
  });

  it('set every field', () => {
    const all = after(
      NEW,
      ...['--chain-size', '-1', '--repo', 'main', '--strategy', 'snapshot', '--keep-checkpoints', '4'],
      ...['--quiesce', 'require', '--include-disk', 'vda', 'vdc', '--exclude-disk', 'vdb,vdd', '--compression', 'zstd'],
      ...['--validate', 'command,hash', '--validate-command', '/bin/true', '--validate-exit-code', '3'],
      ...['--validate-output', 'ok', '--validate-timeout', '90', '--boot-timeout', '5m', '--end-chain-on-not-valid'],
      ...['--quick-restore', '--keep-last', '1', '--keep-hourly', '2', '--keep-daily', '3', '--keep-weekly', '4'],
      ...['--keep-monthly', '5', '--keep-yearly', '6', '--keep-min-age', '7d', '--keep-timezone', 'Europe/Berlin'],
      ...['--time-limit', '100d', '--compression-time-limit', '2h', '--tenant', 'acme', '--priority', '1'],
      ...['--copy-to', 'off-site', '--copy-keep', 'daily=14,min-age=30d,timezone=Europe/Berlin'],
    );
    expect(all).toEqual({
      name: 'gold',
      chainSize: -1,
      repository: 'main',
      strategy: 'snapshot',
      keepCheckpoints: 4,
      quiesce: 'require',
      includeDisks: ['vda', 'vdc'],
      excludeDisks: ['vdb', 'vdd'],
      compression: 'inline',
      validation: ['hash', 'command'],
      validationCommand: { argv: ['/bin/true'], exitCode: 3, output: 'ok', timeoutSeconds: 90 },
      bootTimeoutSeconds: 300,
      endChainOnNotValid: true,
      quickRestore: true,
      retention: {
        ...{ last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5, yearly: 6 },
        ...{ minimumAgeSeconds: 604_800, timezone: 'Europe/Berlin' },
      },
      copyTo: 'off-site',
      copyRetention: {
        ...{ last: 0, hourly: 0, daily: 14, weekly: 0, monthly: 0, yearly: 0 },
        ...{ minimumAgeSeconds: 2_592_000, timezone: 'Europe/Berlin' },
      },
      timeLimitSeconds: 8_640_000,
      compressionTimeLimitSeconds: 7_200,
      tenant: 'acme',
      priority: 1,
    });
    const taken = [
      'repo',
      'include-disk',
      'exclude-disk',
      'validate',
      'validate-command',
      'quick-restore',
      'copy-to',
      'copy-keep',
    ];
    const bare = after(all, ...taken.map((flag) => `--no-${flag}`), '--no-end-chain-on-not-valid', '--no-retention');
    expect(bare).toEqual({
      ...all,
      ...{ repository: null, includeDisks: [], excludeDisks: [], validation: [], validationCommand: null },
      ...{ endChainOnNotValid: false, quickRestore: false, retention: null, copyTo: null, copyRetention: null },
    });
  });

  it('change one rule or one detail and keep the others', () => {
    const before = after(
      NEW,
      '--keep-daily',
      '7',
      '--keep-weekly',
      '4',
      '--validate-command',
      '/a',
      '--validate-output',
      'x',
    );
    const changed = after(before, '--keep-daily', '0', '--no-validate-output');
    expect(changed.retention).toMatchObject({ daily: 0, weekly: 4 });
    expect(changed.validationCommand).toEqual({ argv: ['/a'], exitCode: 0, output: null, timeoutSeconds: 60 });
  });

  it.each([
    ['a flag for each', ['/bin/sh', '-c', `echo "a, b" 'c'  d`, '', '--x=1'], undefined],
    ['a JSON array', ['/bin/sh', '-c', `echo "a, b" 'c'  d`, '', '[1]'], 'json'],
  ])('carry every character of a command: %s', (_how, argv, json) => {
    const words = json === undefined ? argv : [JSON.stringify(argv)];
    const made = after(NEW, ...words.flatMap((word) => ['--validate-command', word]));
    expect(made.validationCommand?.argv).toEqual(argv);
  });

  it.each([
    [['--exclude-disk', 'vda', '--include-disk', 'vda'], '--exclude-disk: vda is also included'],
    [['--copy-keep', 'daily=7'], '--copy-keep: nothing is copied'],
    [['--copy-keep', 'sometimes=7'], '--copy-keep'],
    [['--copy-keep', 'daily=0'], '--copy-keep'],
    [['--repo', 'main', '--copy-to', 'main'], '--copy-to: main is the repository'],
    [['--validate', 'command'], '--validate-command'],
    [['--validate', 'boots'], '--validate'],
    [['--validate-exit-code', '1'], '--validate-exit-code: there is no command'],
    [['--validate-command', '[1]'], '--validate-command: begins like a JSON array'],
    [['--validate-command', ''], '--validate-command: the first is the program'],
    [['--keep-daily', '0'], '--keep-last: no rule keeps anything'],
    [['--no-retention', '--keep-daily', '1'], '--no-retention: contradicts'],
    [['--keep-timezone', 'Mars/Olympus'], 'IANA'],
    [['--exclude-disk', '../x'], 'disk targets'],
    [['--priority', '6'], 'from 1 to 5'],
    [['--keep-checkpoints', '17'], 'from 1 to 16'],
    [['--chain-size', 'many'], 'whole number'],
    [['--time-limit', '367d'], '366d'],
    [['--keep-min-age', '3 days'], '7d'],
  ])('%j are refused, naming the flag and the remedy', (words, message) => {
    expect(() => after(NEW, ...words)).toThrow(message);
  });
});
