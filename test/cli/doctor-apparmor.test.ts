import { describe, expect, it } from 'vitest';
import { appArmorFindings } from '../../cli/doctor/check-apparmor.ts';

const reading = (files: Record<string, string>) => async (path: string) =>
  Object.entries(files).find(([end]) => path.endsWith(end))?.[1] ?? '';

describe("the doctor's look at AppArmor", () => {
  it('says nothing where AppArmor is off', async () => {
    expect(await appArmorFindings(reading({}))).toEqual([]);
    expect(await appArmorFindings(reading({ enabled: 'N\n' }))).toEqual([]);
  });
  it('warns where no rule lets QEMU open the socket', async () => {
    const rules = '# /run/holdfast/** rw,\n';
    const [finding] = await appArmorFindings(reading({ enabled: 'Y\n', 'libvirt-qemu': rules }));
    expect(finding).toMatchObject({ name: 'apparmor', state: 'warn' });
  });
  it('is content with the rule of the manual', async () => {
    const [finding] = await appArmorFindings(reading({ enabled: 'Y\n', 'libvirt-qemu': '  /run/holdfast/** rw,\n' }));
    expect(finding).toMatchObject({ name: 'apparmor', state: 'ok' });
  });
});
