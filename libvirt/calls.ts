import { domain, type Fields, namedOfDomain, parameters, PROGRAM } from './protocol.ts';
import { array, charArray, flag, int, optional, string, struct, uhyper, uint, uuid, type Codec } from './xdr.ts';

export interface Procedure<A, R> {
  readonly program: number;
  readonly number: number;
  readonly name: string;
  readonly args: Codec<A>;
  readonly ret: Codec<R>;
}

const procedure =
  (program: number) =>
  <A extends object, R extends object>(
    number: number,
    name: string,
    args: Fields<A>,
    ret: Fields<R>,
  ): Procedure<A, R> => ({ program, number, name, args: struct<A>(args), ret: struct<R>(ret) });

const remote = procedure(PROGRAM.REMOTE);
const qemu = procedure(PROGRAM.QEMU);
const none = {};
const dom = { dom: domain };

/** Each call: its number, arguments and result. A comment gives the libvirt that brought it where that is 5.0 or later. */
export const CALLS = {
  connectOpen: remote(1, 'CONNECT_OPEN', { name: optional(string), flags: uint }, none),
  getVersion: remote(4, 'CONNECT_GET_VERSION', none, { version: uhyper }),
  nodeGetInfo: remote(6, 'NODE_GET_INFO', none, {
    model: charArray(32),
    memory: uhyper,
    cpus: int,
    mhz: int,
    nodes: int,
    sockets: int,
    cores: int,
    threads: int,
  }),
  getCapabilities: remote(7, 'CONNECT_GET_CAPABILITIES', none, { xml: string }),
  createXml: remote(10, 'DOMAIN_CREATE_XML', { xml: string, flags: uint }, dom),
  getXmlDesc: remote(14, 'DOMAIN_GET_XML_DESC', { ...dom, flags: uint }, { xml: string }),
  lookupByName: remote(23, 'DOMAIN_LOOKUP_BY_NAME', { name: string }, dom),
  lookupByUuid: remote(24, 'DOMAIN_LOOKUP_BY_UUID', { uuid }, dom),
  resume: remote(28, 'DOMAIN_RESUME', dom, none),
  suspend: remote(34, 'DOMAIN_SUSPEND', dom, none),
  getHostname: remote(59, 'CONNECT_GET_HOSTNAME', none, { hostname: string }),
  supportsFeature: remote(60, 'CONNECT_SUPPORTS_FEATURE', { feature: int }, { supported: flag }),
  authList: remote(66, 'AUTH_LIST', none, { types: array(int, 20) }),
  authPolkit: remote(70, 'AUTH_POLKIT', none, { complete: int }),
  isPersistent: remote(151, 'DOMAIN_IS_PERSISTENT', dom, { persistent: flag }),
  getLibVersion: remote(157, 'CONNECT_GET_LIB_VERSION', none, { version: uhyper }),
  attachDevice: remote(160, 'DOMAIN_ATTACH_DEVICE_FLAGS', { ...dom, xml: string, flags: uint }, none),
  detachDevice: remote(161, 'DOMAIN_DETACH_DEVICE_FLAGS', { ...dom, xml: string, flags: uint }, none),
  abortJob: remote(164, 'DOMAIN_ABORT_JOB', dom, none),
  updateDevice: remote(174, 'DOMAIN_UPDATE_DEVICE_FLAGS', { ...dom, xml: string, flags: uint }, none),
  hasManagedSave: remote(183, 'DOMAIN_HAS_MANAGED_SAVE_IMAGE', { ...dom, flags: uint }, { saved: flag }),
  snapshotCreate: remote(
    185,
    'DOMAIN_SNAPSHOT_CREATE_XML',
    { ...dom, xml: string, flags: uint },
    { snap: namedOfDomain },
  ),
  snapshotGetXml: remote(186, 'DOMAIN_SNAPSHOT_GET_XML_DESC', { snap: namedOfDomain, flags: uint }, { xml: string }),
  snapshotDelete: remote(193, 'DOMAIN_SNAPSHOT_DELETE', { snap: namedOfDomain, flags: uint }, none),
  getBlockInfo: remote(
    194,
    'DOMAIN_GET_BLOCK_INFO',
    { ...dom, path: string, flags: uint },
    { allocation: uhyper, capacity: uhyper, physical: uhyper },
  ),
  create: remote(196, 'DOMAIN_CREATE_WITH_FLAGS', { ...dom, flags: uint }, dom),
  screenshot: remote(211, 'DOMAIN_SCREENSHOT', { ...dom, screen: uint, flags: uint }, { mime: optional(string) }),
  getState: remote(212, 'DOMAIN_GET_STATE', { ...dom, flags: uint }, { state: int, reason: int }),
  undefine: remote(231, 'DOMAIN_UNDEFINE_FLAGS', { ...dom, flags: uint }, none),
  destroy: remote(234, 'DOMAIN_DESTROY_FLAGS', { ...dom, flags: uint }, none),
  blockJobAbort: remote(237, 'DOMAIN_BLOCK_JOB_ABORT', { ...dom, path: string, flags: uint }, none),
  blockJobInfo: remote(
    238,
    'DOMAIN_GET_BLOCK_JOB_INFO',
    { ...dom, path: string, flags: uint },
    { found: flag, type: int, bandwidth: uhyper, current: uhyper, end: uhyper },
  ),
  blockJobSetSpeed: remote(
    239,
    'DOMAIN_BLOCK_JOB_SET_SPEED',
    { ...dom, path: string, bandwidth: uhyper, flags: uint },
    none,
  ),
  blockPull: remote(240, 'DOMAIN_BLOCK_PULL', { ...dom, path: string, bandwidth: uhyper, flags: uint }, none),
  blockStats: remote(
    243,
    'DOMAIN_BLOCK_STATS_FLAGS',
    { ...dom, path: string, nparams: int, flags: uint },
    { params: parameters(16), nparams: int },
  ),
  blockResize: remote(251, 'DOMAIN_BLOCK_RESIZE', { ...dom, disk: string, size: uhyper, flags: uint }, none),
  shutdown: remote(258, 'DOMAIN_SHUTDOWN_FLAGS', { ...dom, flags: uint }, none),
  setMetadata: remote(
    264,
    'DOMAIN_SET_METADATA',
    {
      ...dom,
      type: int,
      metadata: optional(string),
      key: optional(string),
      uri: optional(string),
      flags: uint,
    },
    none,
  ),
  getMetadata: remote(
    265,
    'DOMAIN_GET_METADATA',
    { ...dom, type: int, uri: optional(string), flags: uint },
    { metadata: string },
  ),
  blockRebase: remote(
    266,
    'DOMAIN_BLOCK_REBASE',
    { ...dom, path: string, base: optional(string), bandwidth: uhyper, flags: uint },
    none,
  ),
  listAllDomains: remote(
    273,
    'CONNECT_LIST_ALL_DOMAINS',
    { needResults: int, flags: uint },
    { domains: array(domain, 16384), count: uint },
  ),
  listAllSnapshots: remote(
    274,
    'DOMAIN_LIST_ALL_SNAPSHOTS',
    { ...dom, needResults: int, flags: uint },
    { snapshots: array(namedOfDomain, 16384), count: int },
  ),
  blockCommit: remote(
    290,
    'DOMAIN_BLOCK_COMMIT',
    { ...dom, disk: string, base: optional(string), top: optional(string), bandwidth: uhyper, flags: uint },
    none,
  ),
  getJobStats: remote(298, 'DOMAIN_GET_JOB_STATS', { ...dom, flags: uint }, { type: int, params: parameters(64) }),
  eventRegister: remote(
    316,
    'CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY',
    { eventId: int, dom: optional(domain) },
    { callbackId: int },
  ),
  fsFreeze: remote(
    335,
    'DOMAIN_FSFREEZE',
    { ...dom, mountpoints: array(string, 256), flags: uint },
    { filesystems: int },
  ),
  fsThaw: remote(336, 'DOMAIN_FSTHAW', { ...dom, mountpoints: array(string, 256), flags: uint }, { filesystems: int }),
  getDomainCapabilities: remote(
    342,
    'CONNECT_GET_DOMAIN_CAPABILITIES',
    {
      emulator: optional(string),
      arch: optional(string),
      machine: optional(string),
      virtType: optional(string),
      flags: uint,
    },
    { xml: string },
  ),
  getFsInfo: remote(
    349,
    'DOMAIN_GET_FSINFO',
    { ...dom, flags: uint },
    {
      info: array(struct({ mountpoint: string, name: string, fsType: string, devAliases: array(string, 256) }), 256),
      count: uint,
    },
  ),
  defineXml: remote(350, 'DOMAIN_DEFINE_XML_FLAGS', { xml: string, flags: uint }, dom),
  checkpointCreate: remote(
    411, // 5.6
    'DOMAIN_CHECKPOINT_CREATE_XML',
    { ...dom, xml: string, flags: uint },
    { checkpoint: namedOfDomain },
  ),
  checkpointGetXml: remote(
    412, // 5.6
    'DOMAIN_CHECKPOINT_GET_XML_DESC',
    { checkpoint: namedOfDomain, flags: uint },
    { xml: string },
  ),
  listAllCheckpoints: remote(
    413, // 5.6
    'DOMAIN_LIST_ALL_CHECKPOINTS',
    { ...dom, needResults: int, flags: uint },
    { checkpoints: array(namedOfDomain, 16384), count: int },
  ),
  checkpointLookup: remote(
    415, // 5.6
    'DOMAIN_CHECKPOINT_LOOKUP_BY_NAME',
    { ...dom, name: string, flags: uint },
    { checkpoint: namedOfDomain },
  ),
  checkpointGetParent: remote(
    416, // 5.6
    'DOMAIN_CHECKPOINT_GET_PARENT',
    { checkpoint: namedOfDomain, flags: uint },
    { parent: namedOfDomain },
  ),
  checkpointDelete: remote(417, 'DOMAIN_CHECKPOINT_DELETE', { checkpoint: namedOfDomain, flags: uint }, none), // 5.6
  getGuestInfo: remote(
    418,
    'DOMAIN_GET_GUEST_INFO',
    { ...dom, types: uint, flags: uint },
    { params: parameters(2048) },
  ), // 5.7
  agentSetResponseTimeout: remote(
    420, // 5.10
    'DOMAIN_AGENT_SET_RESPONSE_TIMEOUT',
    { ...dom, timeout: int, flags: uint },
    { result: int },
  ),
  backupBegin: remote(
    421, // 6.0
    'DOMAIN_BACKUP_BEGIN',
    { ...dom, backupXml: string, checkpointXml: optional(string), flags: uint },
    none,
  ),
  backupGetXml: remote(422, 'DOMAIN_BACKUP_GET_XML_DESC', { ...dom, flags: uint }, { xml: string }), // 6.0
  monitorCommand: qemu(1, 'DOMAIN_MONITOR_COMMAND', { ...dom, command: string, flags: uint }, { result: string }),
  agentCommand: qemu(
    3,
    'DOMAIN_AGENT_COMMAND',
    { ...dom, command: string, timeout: int, flags: uint },
    { result: optional(string) },
  ),
} as const;
