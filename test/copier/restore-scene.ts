import type { CopierErrorCode } from '../../copier/contract.ts';
import { CopierError } from '../../copier/contract.ts';
import type { Layer } from '../support/stored-chain.ts';

/** The error names the file, and why by its code. */
export const hasCode = (code: CopierErrorCode, file: string) => (error: unknown) =>
  error instanceof CopierError && error.code === code && error.file === file && error.message.includes(file);

/** Three layers: data over data, zeroes over data, data over zeroes, and nothing. */
export const MIXED: Layer[] = [
  { size: '64M', writes: ['write -P 1 0 8M', 'write -P 2 20M 3M', 'write -P 3 63M 1M'] },
  { writes: ['write -P 4 1M 100k', 'write -z 2M 1M', 'write -P 5 40M 1M'] },
  { writes: ['write -P 6 2100k 64k', 'write -P 7 7M 3M', 'write -z 21M 64k'] },
];
