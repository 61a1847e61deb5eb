import { HoldfastError } from '../schemas/failures.ts';

/** Words of a command line that do not go together: nothing was begun, and the command ends with 2. */
export class WrongUsage extends HoldfastError {
  constructor(message: string) {
    super('InvalidRequest', message);
  }
}
