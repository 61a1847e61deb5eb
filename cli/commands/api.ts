import type { Command } from 'commander';
import { action } from '../context.ts';
import { stopSignal } from '../stop-signal.ts';

export function addApiCommand(program: Command): void {
  program
    .command('api')
    .description('serve the HTTP API until it is stopped')
    .option('--listen <address>', 'address and port', '127.0.0.1:7070')
    .option('--token-file <file>', 'file with the token that callers send (default: HOLDFAST_API_TOKEN)')
    .addHelpText(
      'after',
      '\nBeyond this machine it listens only with a token. What it can do: /openapi.json\n\nExamples:\n  $ holdfast api\n  $ holdfast api --listen 0.0.0.0:7070 --token-file /etc/holdfast/api-token',
    )
    .action(
      action(async (context, flags: { listen: string; tokenFile?: string }) => {
        const { runApi } = await import('../../api/run-api.ts');
        const services = { catalog: await context.catalog(), client: () => context.client() };
        await runApi(services, {
          ...flags,
          tokenFile: flags.tokenFile,
          signal: stopSignal(),
          log: (line) => process.stdout.write(`${line}\n`),
        });
      }),
    );
}
