import { describe, expect, it } from 'vitest';
import { planOverlay } from '../../activities/control/plan-overlays.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import { backupOfOverlay, overlayPath, type Delta, type ImageLayer } from '../../schemas/delta.ts';
import type { DiskFacts, VmFacts } from '../../schemas/plan.ts';
import type { FullReason } from '../../schemas/states.ts';

const PARENT = '0d4e2c1b-1111-4222-8333-444455556666';
const NOW = '1a4e2c1b-1111-4222-8333-444455556666';
const BASE = '/images/vda.raw';
const OVERLAY = overlayPath(BASE, PARENT);

const layer = (path: string, stamp = '1:2:3'): ImageLayer => ({ path, format: path === BASE ? 'raw' : 'qcow2', stamp });
const diskOn = (...layers: ImageLayer[]): DiskFacts => ({
  target: 'vda',
  device: 'disk',
  sourceType: 'file',
  sourcePath: layers[0]?.path ?? null,
  format: layers[0]?.format ?? 'raw',
  serial: null,
  virtualSizeBytes: 1024,
  shareable: false,
  readOnly: false,
  bitmaps: [],
  layers,
});
const delta: Delta = {
  backupId: PARENT,
  target: 'vda',
  path: OVERLAY,
  frozenPath: BASE,
  frozenFormat: 'raw',
  frozenStamp: '1:2:3',
};
const parent = {
  backup: { id: PARENT },
  strategy: 'snapshot',
  disks: [{ target: 'vda', serial: null, sourcePath: BASE, virtualSizeBytes: 1024, file: 'vm/disk-0/full-x.qcow2' }],
} as unknown as BackupRecord;

function plan(
  disk: DiskFacts,
  {
    deltas = [delta],
    by = parent,
    problems = [] as VmFacts['parentProblems'],
  }: {
    deltas?: Delta[];
    by?: BackupRecord | undefined;
    problems?: VmFacts['parentProblems'];
  } = {},
) {
  const facts: VmFacts = {
    uuid: 'u',
    name: 'web-1',
    power: 'running',
    disks: [disk],
    checkpoints: [],
    parentProblems: problems,
  };
  const input = { parent: by, chainReason: 'first-backup' as const, facts, forcedFull: new Map<string, FullReason>() };
  return planOverlay(disk, input, { backupId: NOW, deltas });
}

describe('planOverlay', () => {
  it('builds on the overlay of the parent, and shows the disk without it', () => {
    expect(plan(diskOn(layer(OVERLAY), layer(BASE)))).toEqual({
      sourcePath: BASE,
      sourceFormat: 'raw',
      fullReason: null,
      overlay: { path: `${BASE}.holdfast-${NOW}.qcow2`, frozen: [layer(OVERLAY), layer(BASE)], depth: 1 },
    });
  });

  it("counts the user's snapshots since the parent", () => {
    const planned = plan(diskOn(layer('/images/b.qcow2'), layer('/images/a.qcow2'), layer(OVERLAY), layer(BASE)));
    expect(planned).toMatchObject({ sourcePath: '/images/b.qcow2', fullReason: null, overlay: { depth: 3 } });
  });

  it.each<[FullReason, string, DiskFacts, Parameters<typeof plan>[1]?]>([
    ['snapshot-reverted', 'the overlay is not below the disk', diskOn(layer(BASE))],
    ['snapshot-reverted', 'the overlay is not known', diskOn(layer(BASE)), { deltas: [] }],
    ['disk-replaced', 'the disk is another', diskOn(layer('/images/other.raw'))],
    ['image-changed', 'the frozen image was written to', diskOn(layer(OVERLAY), layer(BASE, '1:2:4'))],
    ['image-changed', 'the overlay was laid on another image', diskOn(layer(OVERLAY), layer('/images/other.raw'))],
    ['image-changed', 'nothing is below the overlay', diskOn(layer(OVERLAY))],
    [
      'image-changed',
      'what was frozen was never noted',
      diskOn(layer(OVERLAY), layer(BASE)),
      { deltas: [{ ...delta, frozenStamp: null }] },
    ],
    [
      'strategy-changed',
      'the parent has a checkpoint',
      diskOn(layer(BASE)),
      { by: { ...parent, strategy: 'checkpoint' } },
    ],
    ['disk-resized', 'another size', { ...diskOn(layer(OVERLAY), layer(BASE)), virtualSizeBytes: 2048 }],
    ['disk-replaced', 'another serial', { ...diskOn(layer(OVERLAY), layer(BASE)), serial: 'X' }],
    ['disk-added', 'the parent has no such disk', { ...diskOn(layer(BASE)), target: 'vdb' }],
    [
      'parent-missing',
      'a file of the chain is gone',
      diskOn(layer(OVERLAY), layer(BASE)),
      { problems: [{ file: 'vm/disk-0/full-x.qcow2', problem: 'missing' }] },
    ],
  ])('is full, %s: %s', (reason, _, disk, given = {}) => {
    const planned = plan(disk, given);
    expect(planned.fullReason).toBe(reason);
    expect(planned.overlay?.depth).toBeNull();
  });

  it('names overlays by the disk, however often', () => {
    expect(overlayPath(OVERLAY, NOW)).toBe(`${BASE}.holdfast-${NOW}.qcow2`);
    expect(backupOfOverlay(OVERLAY)).toBe(PARENT);
    expect(backupOfOverlay('/images/holdfast.qcow2')).toBeUndefined();
  });
});
