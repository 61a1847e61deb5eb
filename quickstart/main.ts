import { parseArgs } from 'node:util';
import { openPlayground } from './playground.ts';
import { Progress } from './progress.ts';
import { proveBackups } from './prove-backups.ts';
import { closingTable, howToGoOn, howToUseWhatIsKept } from './report.ts';
import { stopKept } from './stop-kept.ts';

const USAGE = `usage: npm run quickstart [-- --keep | --stop DIR]

Boots a small VM on a private KVM host, backs it up twice while it runs, destroys it, restores it and compares every byte.
Leaves nothing behind.

  --keep      leave host, VM and Holdfast running, and say how to use them
  --stop DIR  end what --keep left running, and remove its folder`;

async function main(): Promise<number> {
  const options = {
    keep: { type: 'boolean' },
    stop: { type: 'string' },
    help: { type: 'boolean', short: 'h' },
  } as const;
  let values;
  try {
    ({ values } = parseArgs({ options }));
  } catch (error) {
    process.stderr.write(`quickstart: ${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return 2;
  }
  if (values.help === true) return say(USAGE, 0);
  if (values.stop !== undefined) return say(await stopKept(values.stop), 0);
  if (process.getuid?.() !== 0) {
    process.stderr.write('quickstart: a private KVM host needs root; run it with sudo\n');
    return 1;
  }
  const stopped = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => stopped.abort(new Error(`stopped by ${name}`)));
  }
  const progress = new Progress(stopped.signal);
  try {
    await using playground = await openPlayground(progress);
    const proof = await proveBackups(playground, progress);
    say(`\n${closingTable(proof)}\n`);
    if (values.keep === true && proof.isProven) {
      playground.keep();
      say(howToUseWhatIsKept(playground, proof));
    } else {
      say(`The Temporal UI was at ${proof.temporalUi}; with --keep it stays: npm run quickstart -- --keep`);
    }
    say(howToGoOn());
    return proof.isProven ? 0 : 1;
  } catch (error) {
    process.stderr.write(`quickstart: ${error instanceof Error ? error.message : String(error)}\n`);
    return stopped.signal.aborted ? 130 : 1;
  }
}

function say(text: string, exitCode = 0): number {
  process.stdout.write(`${text}\n`);
  return exitCode;
}

process.exit(await main()); // a child's pipe must not hold the process
