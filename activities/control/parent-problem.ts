import type { VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';

/** What is wrong with the stored files that an increment of a disk would build on. */
export function parentProblem(
  { parentProblems }: Pick<VmFacts, 'parentProblems'>,
  file: string,
): FullReason | undefined {
  const found = parentProblems.find((each) => concerns(each.file, file));
  if (found === undefined) return undefined;
  return found.problem === 'missing' ? 'parent-missing' : 'parent-damaged';
}

/** A chain's files of one disk share their folder, and its manifests tell of all disks. */
const concerns = (file: string, diskFile: string): boolean =>
  folderOf(file) === folderOf(diskFile) || file.endsWith('.json');

const folderOf = (key: string): string => key.slice(0, key.lastIndexOf('/'));
