import tabOf from '@bomb.sh/tab/commander';
import type { Command } from 'commander';
import { join } from 'node:path';
import { readNames, type CatalogNames } from '../catalog/read-names.ts';
import { openInstallation } from '../workers/installation.ts';

type Tab = ReturnType<typeof tabOf>;
type Subject = keyof CatalogNames;

const EXECUTABLE = join(import.meta.dirname, '..', 'bin', 'holdfast');
const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** What a positional argument means, by the command it belongs to. */
const ARGUMENTS: Record<string, Subject> = {
  'vm show': 'vms',
  'backup take': 'vms',
  'backup ls': 'vms',
  'backup show': 'backups',
  'backup delete': 'backups',
  'backup compress': 'backups',
  'backup validate': 'backups',
  'repo copy': 'backups',
  'chain show': 'vms',
  'chain finish': 'vms',
  'chain merge': 'vms',
  restore: 'backups',
  'offering remove': 'vms',
  'offering show': 'offerings',
  'offering update': 'offerings',
  'offering delete': 'offerings',
  'host rm': 'hosts',
  'repo check-access': 'repositories',
  'schedule show': 'schedules',
  'schedule update': 'schedules',
  'schedule pause': 'schedules',
  'schedule resume': 'schedules',
  'schedule run': 'schedules',
  'schedule delete': 'schedules',
};
/** What an option's value means, wherever it stands. */
const OPTIONS: Record<string, Subject> = {
  host: 'hosts',
  repo: 'repositories',
  offering: 'offerings',
  to: 'repositories',
  from: 'repositories',
  'copy-to': 'repositories',
  vm: 'vms',
  'to-vm': 'vms',
  since: 'backups',
};
/** There `--repo` is a folder. */
const TAKES_FOLDER = new Set(['dev']);

/** `holdfast complete bash` prints the script; the script asks with `holdfast complete -- WORDS`. */
export function addCompleteCommand(program: Command): void {
  program
    .command('complete')
    .description('print the script that completes commands, options, VMs and backups in a shell')
    .argument('<shell>', SHELLS.join(', '))
    .addHelpText(
      'after',
      '\nExamples:\n  $ source <(holdfast complete bash)\n  $ holdfast complete fish > ~/.config/fish/completions/holdfast.fish',
    )
    .action((shell: string, _options: unknown, command: Command) => {
      if (!SHELLS.some((known) => known === shell))
        command.error(`error: no completion for ${shell}: give ${SHELLS.join(', ')}`);
      // By its path: the script must work where bin/ is not on the PATH.
      tabOf(bare(program)).setup('holdfast', `'${EXECUTABLE.replaceAll("'", `'\\''`)}'`, shell);
    });
}

/** The shell asks for words to go on with. */
export const isCompletion = (words: readonly string[]): boolean => words[0] === 'complete' && words[1] === '--';

/** Answers the shell. Says nothing where it cannot: a shell in the middle of a line is no place for an error. */
export async function completeWords(program: Command, words: readonly string[]): Promise<void> {
  const typed = words.slice(2);
  try {
    const tab = tabOf(bare(program));
    offerNames(tab, await namesFor(typed));
    tab.parse([...typed]);
  } catch {
    process.stdout.write(':4\n'); // ShellCompDirectiveNoFileComp: nothing to offer
  }
}

async function namesFor(typed: readonly string[]): Promise<CatalogNames> {
  try {
    const at = typed.indexOf('--data');
    const { catalogUrl } = await openInstallation(at === -1 ? undefined : typed[at + 1]);
    return readNames(catalogUrl);
  } catch {
    return { vms: [], backups: [], hosts: [], repositories: [], offerings: [], schedules: [] };
  }
}

function offerNames(tab: Tab, names: CatalogNames): void {
  const offer = (subject: Subject) => (complete: (value: string, description: string) => void) => {
    for (const { value, description } of names[subject]) complete(value, description);
  };
  for (const [name, command] of tab.commands) {
    const subject = ARGUMENTS[name];
    const [argument] = [...command.arguments.values()];
    if (subject !== undefined && argument !== undefined) argument.handler = offer(subject);
    if (name === 'offering assign') {
      const [first, second] = [...command.arguments.values()];
      if (first !== undefined) first.handler = offer('offerings');
      if (second !== undefined) second.handler = offer('vms');
    }
    for (const [option, of] of Object.entries(OPTIONS)) {
      const known = command.options.get(option);
      if (known !== undefined && !(option === 'repo' && TAKES_FOLDER.has(name))) known.handler = offer(of);
    }
  }
}

/** The adapter adds a `complete` command of its own; ours gives way to it. */
function bare(program: Command): Command {
  const commands = program.commands as Command[];
  const ours = commands.findIndex((command) => command.name() === 'complete');
  if (ours !== -1) commands.splice(ours, 1);
  return program;
}
