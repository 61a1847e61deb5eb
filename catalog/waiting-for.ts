import type { AdmissionRequest } from '../schemas/catalog.ts';
import type { Obstacle } from './grant.ts';

/** Tells a person what an operation waits for: `waiting for VM web-1: takeBackup backup/web-1 runs on it`. */
export function waitingFor(obstacles: readonly Obstacle[], nameOfVm: (uuid: string) => string): string {
  return `waiting for ${obstacles.map((obstacle) => describe(obstacle, nameOfVm)).join(', and for ')}`;
}

function describe(obstacle: Obstacle, nameOfVm: (uuid: string) => string): string {
  switch (obstacle.thing) {
    case 'vm':
      return `VM ${nameOfVm(obstacle.name)}: ${whoIsThere(obstacle, 'runs on it')}`;
    case 'chain':
      return `chain ${obstacle.name}: ${whoIsThere(obstacle, 'uses it')}`;
    case 'host':
    case 'repository':
      return `a slot of ${obstacle.thing} ${obstacle.name} (${slotsInUse(obstacle)})`;
  }
}

function whoIsThere({ holders, keptFor }: Obstacle, whatItDoes: string): string {
  const [holder] = holders;
  if (holder === undefined) return keptFor ? `${nameOf(keptFor)} comes first` : 'it is taken';
  const others = holders.length - 1;
  return `${nameOf(holder)} ${whatItDoes}${others > 0 ? `, and ${others} more` : ''}`;
}

function slotsInUse({ holders, slots, keptFor }: Obstacle): string {
  const inUse = `${holders.length} of ${slots} in use`;
  return keptFor ? `${inUse}; ${nameOf(keptFor)} comes first` : inUse;
}

const nameOf = ({ operation, workflowId }: AdmissionRequest): string => `${operation} ${workflowId}`;
