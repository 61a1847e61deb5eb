import { expect, it } from 'vitest';
import { qemuUserOf } from '../../libvirt/qemu-user.ts';

const capabilities = (models: string): string => `<capabilities><host><uuid>x</uuid>${models}</host></capabilities>`;

it.each([
  ['<secmodel><model>none</model></secmodel>', undefined],
  [
    `<secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model>
     <baselabel type='kvm'>+64055:+109</baselabel><baselabel type='qemu'>+64055:+109</baselabel></secmodel>`,
    { uid: 64055, gid: 109 },
  ],
  ['<secmodel><model>dac</model><baselabel type="kvm">+0:+0</baselabel></secmodel>', { uid: 0, gid: 0 }],
])('reads the user QEMU runs as out of %s', (models, user) => {
  expect(qemuUserOf(capabilities(models))).toEqual(user);
});
