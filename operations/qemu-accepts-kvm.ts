import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/**
 * Whether QEMU can use /dev/kvm. QEMU itself is asked: Node has no ioctl, and a device that can be opened may still not work.
 * With a processor like the host's, as VMs have it: a KVM inside another VM may refuse some of its registers, and QEMU then
 * aborts. Else it ends after two commands on its monitor. A machine without QEMU has nothing that would be slow.
 */
export async function qemuAcceptsKvm(): Promise<boolean> {
  const args = [
    ...['-machine', 'q35', '-cpu', 'max', '-accel', 'kvm', '-display', 'none', '-nodefaults'],
    ...['-monitor', 'none', '-qmp', 'stdio', '-S'],
  ];
  const asked = promisify(execFile)('qemu-system-x86_64', args, { timeout: 5_000, killSignal: 'SIGKILL' });
  asked.child.stdin?.end('{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n');
  return await asked.then(
    () => true,
    (error: unknown) => error instanceof Error && 'code' in error && error.code === 'ENOENT',
  );
}
