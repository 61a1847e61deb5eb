import { CommanderError } from 'commander';
import { Output } from './output.ts';
import { describeFailure } from './failure.ts';
import { createProgram } from './program.ts';
import { withCompletion } from './completion.ts';

const program = createProgram();
try {
  if (!withCompletion(program, process.argv.slice(2))) await program.parseAsync();
} catch (error) {
  const { type, message, exitCode } = describeFailure(error);
  process.exitCode = exitCode;
  if (error instanceof CommanderError && error.exitCode === 0)
    process.exitCode = 0; // --help, --version
  else if (!(error instanceof CommanderError) || process.argv.includes('--json')) {
    new Output({ json: process.argv.includes('--json') }).error(type, message);
  }
}
