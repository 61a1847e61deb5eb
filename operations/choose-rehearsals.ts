/** A backup with what its last test told. */
export interface TestedBackup {
  id: string;
  vm: { uuid: string; name: string };
  /** ISO 8601. */
  instant: string;
  /** It is there, and nothing is known against it. */
  isGood: boolean;
  /** When a throw-away VM was last tried from it, whatever came of it. */
  testedAt: string | null;
  /** When it last booted. */
  provedAt: string | null;
}

export interface Rehearsal {
  vm: { uuid: string; name: string };
  /** Null: there is none to prove it from. */
  backupId: string | null;
}

/**
 * Which VMs are due, and from which backup each is proved; in the order of their turns. Due is who was not proved for
 * `everySeconds`, or whose last test failed. First comes who was tested longest ago, so that a VM that always fails does
 * not keep the others from their turn.
 */
export function chooseRehearsals(
  vms: { uuid: string; name: string }[],
  backups: TestedBackup[],
  { everySeconds, now, seed }: { everySeconds: number; now: Date; seed: string },
): Rehearsal[] {
  const byVm = Map.groupBy(backups, ({ vm }) => vm.uuid);
  return vms
    .map((vm) => ({ vm, of: byVm.get(vm.uuid) ?? [] }))
    .map(({ vm, of }) => ({
      vm,
      of,
      tested: latest(of.map(({ testedAt }) => testedAt)),
      proved: latest(of.map(({ provedAt }) => provedAt)),
    }))
    .filter(
      ({ tested, proved }) =>
        proved === null || (tested ?? '') > proved || Date.parse(proved) + everySeconds * 1000 <= now.getTime(),
    )
    .toSorted((a, b) => order(a.tested, b.tested) || order(a.vm.name, b.vm.name) || order(a.vm.uuid, b.vm.uuid))
    .map(({ vm, of }) => ({ vm, backupId: chooseBackup(of, seed)?.id ?? null }));
}

/**
 * The newest good backup one time, an older one the next: the newest is what a restore would take, but an older one may be
 * the last good one on the day it is needed. Of the older ones that which was never tested, or longest ago.
 */
export function chooseBackup(backups: TestedBackup[], seed: string): TestedBackup | undefined {
  const good = backups.filter(({ isGood }) => isGood).toSorted((a, b) => order(b.instant, a.instant));
  const [newest, ...older] = good;
  const last = backups.filter(({ testedAt }) => testedAt !== null).toSorted((a, b) => order(b.testedAt, a.testedAt))[0];
  if (newest === undefined || older.length === 0 || last === undefined) return newest;
  const wasNewest = !backups.some(({ instant }) => instant > last.instant && instant < (last.testedAt ?? ''));
  if (!wasNewest) return newest;
  const never = older.filter(({ testedAt }) => testedAt === null);
  if (never.length > 0) return never[hashOf(seed + newest.vm.uuid) % never.length];
  if (newest.testedAt === null) return newest; // better than one that proved itself before
  return older.toSorted((a, b) => order(a.testedAt, b.testedAt))[0];
}

const latest = (times: (string | null)[]): string | null =>
  times.reduce((newest, time) => (time !== null && (newest === null || time > newest) ? time : newest), null);

/** Null comes first. */
const order = (a: string | null, b: string | null): number => {
  const [left, right] = [a ?? '', b ?? ''];
  return left < right ? -1 : left > right ? 1 : 0;
};

/** The same for the same run, so that a repeated step chooses the same; FNV-1a. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const character of text) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return hash;
}
