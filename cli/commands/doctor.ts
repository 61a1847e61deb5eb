import type { Command } from 'commander';
import { action } from '../context.ts';

export function addDoctorCommand(program: Command): void {
  program.command('doctor').action(action(async () => undefined));
}
