import type { Command } from 'commander';
import tab from '@bomb.sh/tab/commander';

/** Shell completion: `holdfast complete bash` prints the script. True when the arguments were for it. */
export function withCompletion(program: Command, _arguments: string[]): boolean {
  tab(program);
  return false;
}
