/**
 * What the disks of one run will still write to the repository, as far as their change maps are known: each of two may fit
 * and both may not. Kept by the worker that copies them.
 */
export class SpaceClaims {
  readonly #runs = new Map<string, Map<string, { neededBytes: number; storedBytes: number }>>();

  /** The disk will need so much. Gives what the run's disks, this one included, will still write. */
  claim(runId: string, disk: string, neededBytes: number): { disks: string[]; neededBytes: number } {
    const claims = this.#runs.get(runId) ?? new Map<string, { neededBytes: number; storedBytes: number }>();
    this.#runs.set(runId, claims.set(disk, { neededBytes, storedBytes: 0 }));
    const left = [...claims.values()].map((claim) => Math.max(0, claim.neededBytes - claim.storedBytes));
    return { disks: [...claims.keys()].toSorted(), neededBytes: left.reduce((sum, bytes) => sum + bytes, 0) };
  }

  /** The disk has so much stored by now: that is not free any more, and not to come. */
  stored(runId: string, disk: string, storedBytes: number): void {
    const claim = this.#runs.get(runId)?.get(disk);
    if (claim !== undefined) claim.storedBytes = storedBytes;
  }

  release(runId: string, disk: string): void {
    const claims = this.#runs.get(runId);
    claims?.delete(disk);
    if (claims?.size === 0) this.#runs.delete(runId);
  }
}
