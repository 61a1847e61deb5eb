import { children, parseXml, text, child } from './xml.ts';

/**
 * The user and group that libvirt runs QEMU as, out of its capabilities; undefined when it does not change users, as in a
 * session. Source: libvirt docs/formatcaps.rst, `secmodel`; labels of the model `dac` are `+uid:+gid`.
 */
export function qemuUserOf(capabilitiesXml: string): { uid: number; gid: number } | undefined {
  const host = child(parseXml(capabilitiesXml, 'capabilities'), 'host');
  const dac = children(host, 'secmodel').find((model) => text(child(model, 'model')) === 'dac');
  const labels = children(dac, 'baselabel').map((label) => text(label));
  const [, uid, gid] = /^\+(\d+):\+(\d+)$/.exec(labels[0] ?? '') ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}
