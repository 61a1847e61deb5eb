import { Command } from 'commander';
import { holdfastVersion } from '../workers/version.ts';
import { addCompleteCommand } from './completion.ts';
import { addApiCommand } from './commands/api.ts';
import { addBackupCommands } from './commands/backup.ts';
import { addChainCommands } from './commands/chain.ts';
import { addConsolidationCommands } from './commands/consolidation.ts';
import { addDevCommand } from './commands/dev.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addHostCommands } from './commands/host.ts';
import { addJobCommands } from './commands/job.ts';
import { addOfferingCommands } from './commands/offering.ts';
import { addReclaimCommand } from './commands/reclaim.ts';
import { addRepoCommands } from './commands/repo.ts';
import { addReportCommand } from './commands/report.ts';
import { addRestoreCommand } from './commands/restore.ts';
import { addRetentionCommands } from './commands/retention.ts';
import { addScheduleCommands } from './commands/schedule.ts';
import { addVmCommands } from './commands/vm.ts';
import { addWorkerCommands } from './commands/worker.ts';

/** The whole command line. @param json errors of usage are printed as JSON, by the caller */
export function createProgram({ json = false } = {}): Command {
  const program = new Command('holdfast')
    .description('Backups of KVM virtual machines as durable Temporal workflows')
    .version(holdfastVersion())
    .option('--data <dir>', 'folder of the installation (default: HOLDFAST_DATA, else ./.holdfast)')
    .option('--json', 'print one JSON document')
    .showSuggestionAfterError()
    .configureHelp({ showGlobalOptions: true })
    .addHelpText(
      'after',
      `
Examples:
  $ holdfast dev                        # everything on this machine, against its libvirt
  $ holdfast vm ls
  $ holdfast backup take web-1
  $ holdfast backup ls web-1 --json
  $ holdfast restore 3f2c9a41 --as web-1-restored

Exit codes: 0 done, 1 failed, 2 wrong usage. Shell completion: holdfast complete bash|zsh|fish`,
    );
  addDevCommand(program);
  addWorkerCommands(program);
  addHostCommands(program);
  addVmCommands(program);
  addRepoCommands(program);
  addOfferingCommands(program);
  addBackupCommands(program);
  addRestoreCommand(program);
  addConsolidationCommands(program);
  addChainCommands(program);
  addRetentionCommands(program);
  addScheduleCommands(program);
  addReportCommand(program);
  addJobCommands(program);
  addReclaimCommand(program);
  addApiCommand(program);
  addDoctorCommand(program);
  addCompleteCommand(program);
  forAll(program, (command) => {
    command.exitOverride();
    if (json) command.configureOutput({ writeErr: () => undefined });
    // Global options are taken before and after the subcommand's name.
    if (command !== program)
      command.option('--data <dir>', 'folder of the installation').option('--json', 'print one JSON document');
  });
  return program;
}

function forAll(command: Command, act: (command: Command) => void): void {
  act(command);
  for (const sub of command.commands) forAll(sub, act);
}
