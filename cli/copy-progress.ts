import { MultiBar, Presets, type SingleBar } from 'cli-progress';
import type { CopyHeartbeat, OperationProgress } from '../schemas/plan.ts';
import { sizeText, type Output } from './output.ts';

type Step = Pick<OperationProgress, 'vm' | 'step' | 'waitingFor'>;

/** What people see of work that goes on: its step, and how far each disk is. */
export interface ShownProgress {
  step(progress: Step): void;
  copies(copies: CopyHeartbeat[]): void;
  stop(): void;
}

/** Bars on a terminal, else a line for each step and each tenth of a disk; nothing for scripts. */
export function showProgress(output: Output): ShownProgress {
  return output.isTerminal && !output.isJson ? new Bars() : new Lines((line) => output.note(line));
}

const stepText = ({ step, waitingFor }: Step): string => waitingFor ?? step;

class Lines implements ShownProgress {
  readonly #write: (line: string) => void;
  #last = '';
  readonly #tenths = new Map<string, number>();
  constructor(write: (line: string) => void) {
    this.#write = write;
  }
  step(progress: Step): void {
    const text = stepText(progress);
    if (text === this.#last) return;
    this.#last = text;
    this.#write(`${progress.vm === '' ? '' : `${progress.vm}: `}${text}`);
  }
  copies(copies: CopyHeartbeat[]): void {
    for (const { target, copiedBytes, totalBytes } of copies) {
      const tenth = Math.floor((copiedBytes / totalBytes) * 10);
      if (tenth <= (this.#tenths.get(target) ?? 0)) continue;
      this.#tenths.set(target, tenth);
      this.#write(`  ${target}: ${tenth * 10} % of ${sizeText(totalBytes)}`);
    }
  }
  stop(): void {
    this.#tenths.clear();
  }
}

class Bars implements ShownProgress {
  readonly #bars = new MultiBar(
    { format: '  {target} [{bar}] {percentage} % of {size}  {eta_formatted}', hideCursor: true, clearOnComplete: true },
    Presets.shades_grey,
  );
  readonly #byTarget = new Map<string, SingleBar>();
  #last = '';
  step(progress: Step): void {
    const text = stepText(progress);
    if (text === this.#last) return;
    this.#last = text;
    this.#bars.log(`${progress.vm === '' ? '' : `${progress.vm}: `}${text}\n`);
  }
  copies(copies: CopyHeartbeat[]): void {
    for (const { target, copiedBytes, totalBytes } of copies) {
      const bar =
        this.#byTarget.get(target) ?? this.#bars.create(totalBytes, 0, { target, size: sizeText(totalBytes) });
      this.#byTarget.set(target, bar);
      bar.update(copiedBytes);
    }
  }
  stop(): void {
    this.#bars.stop();
  }
}
