import type { StandalonePlan } from './plan-restore.ts';

/** What is left to do for a person who defines the VM by hand, as lines for a shell. */
export const commandsLeft = ({ definition, files }: StandalonePlan): string[] =>
  definition === null
    ? []
    : [
        ...files.flatMap(({ belongsTo, path }) =>
          belongsTo === undefined ? [] : [`install -D -m 600 ${quoted(path)} ${quoted(belongsTo)}`],
        ),
        `virsh define ${quoted(definition.path)}`,
      ];

const quoted = (text: string): string => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
