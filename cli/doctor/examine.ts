import { checkAgents } from './check-agents.ts';
import { checkAppArmor } from './check-apparmor.ts';
import { checkClock } from './check-clock.ts';
import { checkVersions } from './check-libvirt.ts';
import { checkFiles, checkKvm, checkTools } from './check-machine.ts';
import { checkSocket, checkUser } from './check-socket.ts';
import { checkRepositories, checkScratch } from './check-space.ts';
import { checkTemporal } from './check-temporal.ts';
import { fail, reason, type Check, type Finding, type Patient } from './check.ts';

const CHECKS: Record<string, Check> = {
  user: checkUser,
  socket: checkSocket,
  libvirt: checkVersions,
  agents: checkAgents,
  tools: checkTools,
  files: checkFiles,
  kvm: checkKvm,
  apparmor: checkAppArmor,
  scratch: checkScratch,
  repository: checkRepositories,
  temporal: checkTemporal,
  clock: checkClock,
};

/** All checks, one after the other; a check that breaks is a failed check. */
export async function examine(patient: Patient): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [name, check] of Object.entries(CHECKS)) {
    findings.push(
      ...(await check(patient).catch((error: unknown) => [fail(name, `cannot be checked: ${reason(error)}`)])),
    );
  }
  return findings;
}
