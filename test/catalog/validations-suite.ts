import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import type { ValidationResult } from '../../schemas/validation.ts';
import { after, T0, takeChain } from './records.ts';

/** What every catalog keeps of validations. */
export function validationsSuite(openNew: () => Promise<Catalog>): void {
  describe('validations', () => {
    const RUN = { workflowId: 'validateBackup-1', runId: 'r1' };
    const OTHER = { workflowId: 'validateBackup-2', runId: 'r2' };
    const result = (given: Partial<ValidationResult> = {}): ValidationResult => ({
      state: 'Valid',
      steps: [{ step: 'boot', result: 'passed', detail: 'answered', durationMs: 3_000 }],
      bootMs: 3_000,
      validatedAt: T0,
      host: 'kvm-1',
      screenshot: null,
      ...given,
    });

    it('gives a backup to one run at a time, and its former state back', async () => {
      await using catalog = await openNew();
      const [id = ''] = await takeChain(catalog, 1);
      const stateOf = async () => (await catalog.backups.find(id))?.backup.validation;
      expect(await catalog.validations.begin(id, RUN)).toBeNull();
      expect(await catalog.validations.begin(id, RUN)).toBeNull();
      expect(await catalog.validations.begin(id, OTHER)).toEqual(RUN);
      expect(await catalog.validations.running()).toEqual([{ backupId: id, vmName: 'web-1', ...RUN }]);
      await catalog.validations.restore(id, OTHER);
      expect(await stateOf()).toBe('Validating');
      await catalog.validations.restore(id, RUN);
      expect(await stateOf()).toBe('NotValidated');
      await catalog.validations.begin(id, OTHER);
      await catalog.validations.complete(id, result());
      await catalog.validations.restore(id, OTHER); // its undo leaves the result alone
      expect(await stateOf()).toBe('Valid');
      expect(await catalog.validations.resultOf(id)).toEqual(result());
      expect(await catalog.validations.running()).toEqual([]);
    });

    it('remembers the last proven boot of a VM, through validations that boot nothing', async () => {
      await using catalog = await openNew();
      const vmUuid = randomUUID();
      const [first = '', second = ''] = await takeChain(catalog, 2, { vmUuid });
      expect(await catalog.validations.lastBoot(vmUuid)).toBeNull();
      await catalog.validations.complete(second, result());
      await catalog.validations.complete(first, result({ validatedAt: after(60), bootMs: 5_000 }));
      const hashed = result({ steps: [], bootMs: null, validatedAt: after(120) });
      await catalog.validations.complete(first, hashed);
      expect(await catalog.validations.lastBoot(vmUuid)).toEqual({
        backupId: first,
        bootedAt: after(60),
        bootMs: 5_000,
      });
      expect(await catalog.validations.resultOf(first)).toEqual(hashed);
      expect(await catalog.validations.lastBoot(randomUUID())).toBeNull();
    });

    it('marks backups as damaged, and takes it back', async () => {
      await using catalog = await openNew();
      const [first = '', second = ''] = await takeChain(catalog, 2);
      const damages = async () =>
        await Promise.all([first, second].map(async (id) => (await catalog.backups.find(id))?.damage));
      await catalog.validations.setDamage([first, second], 'altered');
      expect(await damages()).toEqual(['altered', 'altered']);
      await catalog.validations.setDamage([first], null);
      await catalog.validations.setDamage([], null);
      expect(await damages()).toEqual([null, 'altered']);
    });
  });
}
