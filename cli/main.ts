import { CommanderError } from 'commander';
import { completeWords, isCompletion } from './completion.ts';
import { describeError } from './failure.ts';
import { Output } from './output.ts';
import { createProgram } from './program.ts';

const words = process.argv.slice(2);
const json = words.includes('--json');
try {
  if (isCompletion(words)) await completeWords(createProgram({ json }), words);
  else await createProgram({ json }).parseAsync();
} catch (error) {
  if (error instanceof CommanderError && error.exitCode === 0) {
    process.exitCode = 0; // --help, --version
  } else {
    const { type, message, exitCode } = await describeError(error);
    process.exitCode = exitCode;
    // Commander has told people already what is wrong with their words.
    if (json || !(error instanceof CommanderError)) new Output({ json }).error(type, message);
  }
}
