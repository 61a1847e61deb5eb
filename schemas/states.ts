import { z } from 'zod';

/** States of the CloudStack KBOSS provider, so that its users find them again. */
export const backupState = z.enum([
  'Queued',
  'BackingUp',
  'BackedUp',
  'Restoring',
  'Removed',
  'Expunged',
  'Failed',
  'Error',
]);
export type BackupState = z.infer<typeof backupState>;

export const compressionState = z.enum([
  'None',
  'Compressing',
  'FinalizingCompression',
  'Compressed',
  'CompressionError',
]);
export type CompressionState = z.infer<typeof compressionState>;

export const validationState = z.enum(['NotValidated', 'Validating', 'Valid', 'NotValid', 'UnableToValidate']);
export type ValidationState = z.infer<typeof validationState>;

export const vmState = z.enum(['Idle', 'BackingUp', 'BackupError', 'Restoring', 'RestoreError']);
export type VmState = z.infer<typeof vmState>;

export const backupType = z.enum(['full', 'incremental']);
export type BackupType = z.infer<typeof backupType>;

/** What a guest finds after a restore: `application` = file systems frozen, `crash` = as after a power cut. */
export const consistency = z.enum(['application', 'crash', 'stopped']);
export type Consistency = z.infer<typeof consistency>;

export const quiesceMode = z.enum(['none', 'prefer', 'require']);
export type QuiesceMode = z.infer<typeof quiesceMode>;

/** How the point in time of a VM is made; docs/operating.md compares them. */
export const strategy = z.enum(['checkpoint', 'snapshot']);
export type Strategy = z.infer<typeof strategy>;

/** What a validation does, in this order. */
export const validationStep = z.enum(['hash', 'boot', 'screenshot', 'command']);
export type ValidationStep = z.infer<typeof validationStep>;

/** Why a disk was copied in full; docs/operating.md explains each. */
export const fullReason = z.enum([
  'first-backup',
  'requested',
  'chain-size-reached',
  'disk-added',
  'disk-resized',
  'disk-replaced',
  'checkpoint-lost',
  'bitmap-inconsistent',
  'parent-missing',
  'parent-damaged',
  'parent-not-valid',
  'format-without-bitmaps',
  'merged',
  'strategy-changed',
  'snapshot-reverted',
  'image-changed',
]);
export type FullReason = z.infer<typeof fullReason>;
