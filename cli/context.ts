import type { Client } from '@temporalio/client';
import type { Command } from 'commander';
import type { Catalog } from '../catalog/contract.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { openInstallation, type Installation } from '../workers/installation.ts';
import { Output } from './output.ts';

/**
 * What a command works with. Catalog and Temporal are opened when first asked for, and closed at the end; their code is
 * loaded only then, because it takes most of a quick command's time.
 */
export class CommandContext implements AsyncDisposable {
  readonly output: Output;
  readonly installation: Installation;
  #catalog: Catalog | undefined;
  #client: Client | undefined;

  private constructor(output: Output, installation: Installation) {
    this.output = output;
    this.installation = installation;
  }

  static async open(command: Command): Promise<CommandContext> {
    const options = command.optsWithGlobals<{ json?: boolean; data?: string }>();
    return new CommandContext(new Output({ json: options.json ?? false }), await openInstallation(options.data));
  }

  async catalog(): Promise<Catalog> {
    const { openCatalog } = await import('../catalog/open-catalog.ts');
    this.#catalog ??= await openCatalog(this.installation.catalogUrl);
    return this.#catalog;
  }

  /** @throws HoldfastError TemporalUnreachable */
  async client(): Promise<Client> {
    const { temporal, dataDir } = this.installation;
    const { connectClient } = await import('../workers/connect-client.ts');
    this.#client ??= await connectClient(temporal).catch((error: unknown) => {
      throw new HoldfastError(
        'TemporalUnreachable',
        `Temporal does not answer at ${temporal.address} (installation ${dataDir}); start it, say with: holdfast dev`,
        { cause: error },
      );
    });
    return this.#client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client?.connection.close();
    await this.#catalog?.[Symbol.asyncDispose]();
  }
}

/** Wraps a command's work: opens what it needs, closes it whatever happens. */
export const action =
  <Arguments extends unknown[]>(work: (context: CommandContext, ...parameters: Arguments) => Promise<void>) =>
  async (...parameters: [...Arguments, Command]): Promise<void> => {
    const command = parameters.at(-1) as Command;
    await using context = await CommandContext.open(command);
    await work(context, ...(parameters.slice(0, -1) as unknown as Arguments));
  };
