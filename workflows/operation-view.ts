import { defineQuery, setCurrentDetails, setHandler, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { OperationProgress } from '../schemas/plan.ts';
import { searchAttributes } from '../schemas/search-attributes.ts';

export const progressQuery = defineQuery<OperationProgress>('progress');

/** What an operator sees of a run in the Temporal UI and the command line: which VM, which step, what it waits for. */
export class OperationView {
  readonly #progress: OperationProgress;
  readonly #notes: string[] = [];

  constructor(operation: string, vm: string) {
    this.#progress = { operation, vm, step: 'starting', waitingFor: null, backupId: null };
    setHandler(progressQuery, () => this.#progress, { description: 'step, and what the run waits for' });
    upsertSearchAttributes([
      { key: searchAttributes.operation, value: operation },
      { key: searchAttributes.vm, value: vm },
      { key: searchAttributes.state, value: 'running' },
    ]);
  }

  about(facts: {
    vm?: { uuid: string; name: string };
    host?: string;
    repository?: string;
    tenant?: string;
    backupId?: string;
  }): void {
    if (facts.vm !== undefined) this.#progress.vm = facts.vm.name;
    if (facts.backupId !== undefined) this.#progress.backupId = facts.backupId;
    upsertSearchAttributes([
      ...(facts.vm === undefined
        ? []
        : [
            { key: searchAttributes.vm, value: facts.vm.name },
            { key: searchAttributes.vmUuid, value: facts.vm.uuid },
          ]),
      ...(facts.host === undefined ? [] : [{ key: searchAttributes.host, value: facts.host }]),
      ...(facts.repository === undefined ? [] : [{ key: searchAttributes.repository, value: facts.repository }]),
      ...(facts.tenant === undefined ? [] : [{ key: searchAttributes.tenant, value: facts.tenant }]),
    ]);
  }

  step(step: string): void {
    this.#progress.step = step;
    this.#progress.waitingFor = null;
    this.#show();
  }

  waitingFor(what: string): void {
    if (this.#progress.waitingFor === what) return;
    this.#progress.waitingFor = what;
    this.#show();
  }

  /** A line that stays in sight: a fallback taken, a step that could not be undone. */
  note(line: string): void {
    this.#notes.push(line);
    this.#show();
  }

  ended(state: 'done' | 'failed' | 'cancelled', cause?: string): void {
    this.#progress.step = state;
    this.#progress.waitingFor = null;
    if (cause !== undefined) this.#notes.push(cause);
    upsertSearchAttributes([{ key: searchAttributes.state, value: state }]);
    this.#show();
  }

  #show(): void {
    const { operation, vm, step, waitingFor, backupId } = this.#progress;
    setCurrentDetails(
      [
        `**${operation}**${vm === '' ? '' : ` of VM **${vm}**`}${backupId === null ? '' : ` (backup \`${backupId}\`)`}`,
        '',
        `- step: ${step}`,
        ...(waitingFor === null ? [] : [`- ${waitingFor}`]),
        ...this.#notes.map((line) => `- ${line}`),
        `- run: \`${workflowInfo().workflowId}\``,
      ].join('\n'),
    );
  }
}
