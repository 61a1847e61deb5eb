import { defineSearchAttributeKey } from '@temporalio/common';

/** Search attributes of every operation; plain text in Temporal, so nothing secret. */
export const searchAttributes = {
  operation: defineSearchAttributeKey('HoldfastOperation', 'KEYWORD'),
  state: defineSearchAttributeKey('HoldfastState', 'KEYWORD'),
  vm: defineSearchAttributeKey('HoldfastVm', 'KEYWORD'),
  vmUuid: defineSearchAttributeKey('HoldfastVmUuid', 'KEYWORD'),
  host: defineSearchAttributeKey('HoldfastHost', 'KEYWORD'),
  repository: defineSearchAttributeKey('HoldfastRepository', 'KEYWORD'),
  tenant: defineSearchAttributeKey('HoldfastTenant', 'KEYWORD'),
} as const;
