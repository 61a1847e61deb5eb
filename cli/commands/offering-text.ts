import type { Offering } from '../../schemas/catalog.ts';
import { table } from '../output.ts';
import { rulesText } from '../retention-options.ts';

/** An offering with the VMs that have it. */
export type ShownOffering = Offering & { vms: string[] };

export const offeringTable = (offerings: ShownOffering[]): string =>
  table(
    ['OFFERING', 'CHAIN SIZE', 'REPOSITORY', 'STRATEGY', 'QUIESCE', 'COMPRESSION', 'VALIDATION', 'KEEPS', 'VMS'],
    offerings.map((row) => [
      row.name,
      row.chainSize,
      row.repository,
      row.strategy,
      row.quiesce,
      row.compression,
      row.validation.join(',') || null,
      keepsText(row),
      row.vms.join(' '),
    ]),
    'no offering yet; create one: holdfast offering create NAME',
  );

export function offeringText(offering: ShownOffering): string {
  const { validationCommand: command } = offering;
  const lines: [string, string][] = [
    ['chain size', chainSizeText(offering.chainSize)],
    ['repository', offering.repository ?? 'the only one there is'],
    ['strategy', `${offering.strategy}, ${offering.keepCheckpoints} checkpoints kept`],
    ['quiesce', offering.quiesce],
    ['disks', disksText(offering)],
    ['compression', `${offering.compression}, at most ${offering.compressionTimeLimitSeconds} s when deferred`],
    ['validation', offering.validation.join(', ') || 'none'],
    ...(command === null
      ? []
      : ([
          [
            'command',
            `${JSON.stringify(command.argv)}, exit code ${command.exitCode}, ` +
              `${command.output === null ? 'any output' : `output ${JSON.stringify(command.output)}`}, ` +
              `at most ${command.timeoutSeconds} s`,
          ],
        ] satisfies [string, string][])),
    ['boot', `agent within ${offering.bootTimeoutSeconds} s`],
    ['not valid', offering.endChainOnNotValid ? 'ends the chain' : 'the chain goes on'],
    ['quick restore', offering.quickRestore ? 'allowed' : 'not allowed'],
    ['retention', keepsText(offering) ?? 'every backup is kept'],
    ['copies', copiesText(offering)],
    ['time limit', `${offering.timeLimitSeconds} s for all disks of a run`],
    ['tenant', `${offering.tenant}, priority ${offering.priority}`],
    ['VMs', offering.vms.join(' ') || 'none'],
  ];
  return [`offering ${offering.name}`, ...lines.map(([name, text]) => `  ${name.padEnd(14)}${text}`)].join('\n');
}

const chainSizeText = (size: number): string =>
  size < 1 ? 'unlimited' : size === 1 ? '1: every backup is full' : `${size}, its full included`;

function disksText({ includeDisks, excludeDisks }: Offering): string {
  const chosen = includeDisks.length === 0 ? 'all' : includeDisks.join(' ');
  return excludeDisks.length === 0 ? chosen : `${chosen} but ${excludeDisks.join(' ')}`;
}

const copiesText = ({ copyTo, copyRetention }: Offering): string =>
  copyTo === null
    ? 'none'
    : `to ${copyTo}, ${copyRetention === null ? 'every copy is kept' : rulesText(copyRetention)}`;

function keepsText({ retention }: Offering): string | null {
  if (retention === null) return null;
  const { last, hourly, daily, weekly, monthly, yearly, minimumAgeSeconds, timezone } = retention;
  const rules = Object.entries({ last, hourly, daily, weekly, monthly, yearly }).filter(([, count]) => count > 0);
  return [
    ...rules.map(([rule, count]) => `${count} ${rule}`),
    ...(minimumAgeSeconds > 0 ? [`nothing younger than ${minimumAgeSeconds} s goes`] : []),
    ...(timezone === 'UTC' ? [] : [timezone]),
  ].join(', ');
}
