import { describe, expect, it } from 'vitest';
import { checkpointXml, domainBackupXml } from '../../activities/host/domain-backup-xml.ts';
import type { BackupPlan, PlannedDisk } from '../../schemas/plan.ts';

const ID = '0d4e2c1b-1111-4222-8333-444455556666';
const PARENT = '9d4e2c1b-1111-4222-8333-444455556666';
const disk = (target: string, changes: Partial<PlannedDisk> = {}) => ({
  target,
  type: 'full',
  holdsBitmap: true,
  ...changes,
});
const plan = (changes: object): BackupPlan =>
  ({ backupId: ID, parentId: null, checkpoint: true, disks: [disk('vda')], ...changes }) as unknown as BackupPlan;
const paths = { socketPath: "/run/it's/nbd", scratchFile: (target: string) => `/scratch/${target}` };

describe('domainBackupXml', () => {
  it('exports planned disks over the socket and leaves the others out', () => {
    const xml = domainBackupXml(plan({}), ['vda', 'hda'], paths);
    expect(xml).toBe(
      `<domainbackup mode='pull'><server transport='unix' socket='/run/it&#39;s/nbd'/><disks>` +
        `<disk name='vda' backup='yes' type='file' exportname='vda' backupmode='full'>` +
        `<driver type='qcow2'/><scratch file='/scratch/vda'/></disk><disk name='hda' backup='no'/></disks></domainbackup>`,
    );
  });

  it('names the checkpoint of the parent for each incremental disk alone', () => {
    const disks = [disk('vda', { type: 'incremental' }), disk('vdb')];
    const xml = domainBackupXml(plan({ parentId: PARENT, disks }), ['vda', 'vdb'], paths);
    expect(xml).toContain(
      `exportname='vda' exportbitmap='backup-vda' backupmode='incremental' incremental='holdfast-${PARENT}'>`,
    );
    expect(xml).toContain(`exportname='vdb' backupmode='full'>`);
  });
});

describe('checkpointXml', () => {
  it('puts a bitmap on each planned disk that can hold one', () => {
    const disks = [disk('vda'), disk('vdb', { holdsBitmap: false })];
    expect(checkpointXml(plan({ disks }), ['vda', 'vdb', 'hda'])).toBe(
      `<domaincheckpoint><name>holdfast-${ID}</name><disks><disk name='vda' checkpoint='bitmap'/>` +
        `<disk name='vdb' checkpoint='no'/><disk name='hda' checkpoint='no'/></disks></domaincheckpoint>`,
    );
  });

  it.each([
    ['no incremental will follow', { checkpoint: false }],
    ['no disk can hold a bitmap', { disks: [disk('vda', { holdsBitmap: false })] }],
  ])('is none when %s', (_, changes) => {
    expect(checkpointXml(plan(changes), ['vda'])).toBeUndefined();
  });
});
