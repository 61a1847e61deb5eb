import { InvalidArgumentError } from 'commander';
import { retentionRules, timezone, type RetentionRules } from '../schemas/retention.ts';
import { parseAge } from './retention-options.ts';

const COUNTS = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
const EXAMPLE = 'give rules like last=3,daily=14,monthly=12,min-age=30d,timezone=Europe/Berlin';

/** `last=3,daily=14,min-age=30d`: what is kept of copies, all in one word, because an offering has rules of its own too. */
export function parseCopyRules(value: string): RetentionRules {
  const fields: Record<string, unknown> = {};
  for (const rule of value.split(',')) {
    const [name = '', given = ''] = rule.split('=', 2).map((word) => word.trim());
    if (COUNTS.some((count) => count === name) && /^\d{1,9}$/.test(given)) fields[name] = Number(given);
    else if (name === 'min-age') fields['minimumAgeSeconds'] = parseAge(given);
    else if (name === 'timezone' && timezone.safeParse(given).success) fields['timezone'] = given;
    else throw new InvalidArgumentError(`"${rule}" is no rule; ${EXAMPLE}`);
  }
  const rules = retentionRules.parse(fields);
  if (COUNTS.every((count) => rules[count] === 0)) throw new InvalidArgumentError(`nothing is kept; ${EXAMPLE}`);
  return rules;
}
