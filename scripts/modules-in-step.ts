/**
 * Ends with 0 when node_modules holds what package-lock.json asks for. npm keeps a lock file of its own beside the
 * modules, which says what it put there. Imports no module: there may be none.
 */
import { existsSync, readFileSync } from 'node:fs';

interface LockedPackage {
  version?: string;
  optional?: boolean;
}

function lockedPackages(file: string): Map<string, LockedPackage> {
  const { packages } = JSON.parse(readFileSync(file, 'utf8')) as { packages: Record<string, LockedPackage> };
  return new Map(Object.entries(packages).filter(([path]) => path !== '')); // '' is the project itself
}

const wanted = lockedPackages('package-lock.json');
const present = lockedPackages('node_modules/.package-lock.json');
const isThere = (path: string, version: string | undefined): boolean =>
  present.get(path)?.version === version && existsSync(`${path}/package.json`);

const missing = [...wanted].filter(([path, { version, optional }]) => !optional && !isThere(path, version));
const superfluous = [...present.keys()].filter((path) => !wanted.has(path));
process.exitCode = missing.length + superfluous.length === 0 ? 0 : 1;
