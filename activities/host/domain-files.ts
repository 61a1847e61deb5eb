import { createHash } from 'node:crypto';
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DomainDefinition } from '../../libvirt/domain-xml.ts';
import type { KeptFile } from '../../schemas/manifest.ts';
import { isNotFound } from './json-notes.ts';

/** NVRAM is 64 KiB to 64 MiB, TPM state some hundred KiB; more is not what it says it is. */
const MAX_FILE_BYTES = 64 * 1024 * 1024;

/**
 * Reads what belongs to the VM beside its disks: UEFI variables, and the state of an emulated TPM.
 * `daemonRoot` is the folder under which libvirtd sees its files.
 * Source of the TPM's place: libvirt src/qemu/qemu_tpm.c, `/var/lib/libvirt/swtpm/<uuid>/<version>/`
 */
export async function readDomainFiles(definition: DomainDefinition, daemonRoot: string): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  if (definition.nvram !== null && definition.nvram.path !== null) {
    const file = await readKept('nvram', daemonRoot, definition.nvram.path);
    if (file !== undefined) kept.push(file); // a VM that was never started has none yet
  }
  if (definition.tpm?.backend === 'emulator') {
    const folder = `/var/lib/libvirt/swtpm/${definition.uuid}`;
    for (const path of await filesBelow(daemonRoot, folder)) {
      const file = await readKept('tpm', daemonRoot, path);
      if (file !== undefined) kept.push(file);
    }
  }
  return kept;
}

async function readKept(kind: KeptFile['kind'], root: string, path: string): Promise<KeptFile | undefined> {
  try {
    const info = await stat(join(root, path));
    if (info.size > MAX_FILE_BYTES) throw new Error(`${kind} file ${path} has ${info.size} bytes; that is too large`);
    const content = await readFile(join(root, path));
    return {
      kind,
      path,
      mode: info.mode & 0o777,
      sha256: createHash('sha256').update(content).digest('hex'),
      content: content.toString('base64'),
    };
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
}

async function filesBelow(root: string, folder: string): Promise<string[]> {
  const entries = await readdir(join(root, folder), { withFileTypes: true, recursive: true }).catch(
    (error: unknown) => {
      if (isNotFound(error)) return [];
      throw error;
    },
  );
  return entries
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.lock'))
    .map((entry) => join(entry.parentPath, entry.name).slice(root === '/' ? 0 : root.length))
    .toSorted();
}
