import tabOf from '@bomb.sh/tab/commander';
import type { Command } from 'commander';
import { join } from 'node:path';
import { readNames, type CatalogNames } from '../catalog/read-names.ts';
import { openInstallation } from '../workers/installation.ts';

type Tab = ReturnType<typeof tabOf>;
type Subject = keyof CatalogNames;

const EXECUTABLE = join(import.meta.dirname, '..', 'bin', 'holdfast');
const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** What positional arguments mean, by the command they belong to; null = nothing that is known. */
export const ARGUMENTS: Readonly<Record<string, readonly (Subject | null)[]>> = {
  'host add': [null],
  'host rm': ['hosts'],
  'vm show': ['vms'],
  'repo add': [null],
  'repo check-access': ['repositories'],
  'repo limit': ['repositories'],
  'repo lock': ['repositories'],
  'repo copy': ['backups'],
  'repo set': ['repositories'],
  'repo key ls': ['repositories'],
  'repo key add': ['repositories', null],
  'repo key rm': ['repositories', null],
  'repo key rotate': ['repositories'],
  'repo rescan': ['repositories'],
  'repo check': ['repositories'],
  'offering create': [null],
  'offering show': ['offerings'],
  'offering update': ['offerings'],
  'offering assign': ['offerings', 'vms'],
  'offering remove': ['vms'],
  'offering delete': ['offerings'],
  'backup take': ['vms'],
  'backup ls': ['vms'],
  'backup show': ['backups'],
  'backup delete': ['backups'],
  'backup compress': ['backups'],
  'backup validate': ['backups', null],
  'backup pin': ['backups'],
  'backup unpin': ['backups'],
  'backup files': ['backups', null, null],
  'backup mount': ['backups'],
  restore: ['backups'],
  'consolidation resume': ['vms'],
  'consolidation undo': ['vms'],
  'consolidation rate': ['vms', null],
  'chain show': ['vms'],
  'chain finish': ['vms'],
  'chain merge': ['vms'],
  'retention preview': ['vms'],
  'retention apply': ['vms'],
  'schedule create': [null],
  'schedule show': ['schedules'],
  'schedule update': ['schedules'],
  'schedule pause': ['schedules'],
  'schedule resume': ['schedules'],
  'schedule run': ['schedules'],
  'schedule delete': ['schedules'],
  'job show': [null],
  'job cancel': [null],
};
/** What an option's value means, wherever it stands. */
const OPTIONS: Readonly<Record<string, Subject>> = {
  host: 'hosts',
  repo: 'repositories',
  offering: 'offerings',
  'copy-to': 'repositories',
  vm: 'vms',
  'to-vm': 'vms',
  since: 'backups',
};
/** The same in one command: elsewhere these are folders. */
const OPTIONS_OF: Readonly<Record<string, Readonly<Record<string, Subject>>>> = {
  'repo copy': { to: 'repositories', from: 'repositories' },
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
    for (const [place, argument] of [...command.arguments.values()].entries()) {
      const subject = ARGUMENTS[name]?.[place];
      if (subject != null) argument.handler = offer(subject);
    }
    for (const [option, of] of Object.entries({ ...OPTIONS, ...OPTIONS_OF[name] })) {
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
