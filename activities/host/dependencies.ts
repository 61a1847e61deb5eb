import type { CopierPool } from '../../copier/contract.ts';
import type { Libvirt } from '../../libvirt/libvirt.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import type { RepositoryLocation } from '../../schemas/repository.ts';
import type { CaptureStore } from './capture-store.ts';
import type { CopyNotes } from './copy-notes.ts';
import type { Fence } from './fence.ts';
import type { Gateways } from './gateways.ts';
import type { HostState } from './host-state.ts';
import type { Paces } from './paces.ts';
import type { RewriteNotes } from './rewrite-notes.ts';
import type { StillGuests } from './still-guests.ts';
import type { ThawGuard } from './quiesce.ts';

export interface HostDependencies {
  host: string;
  /** How many disks may be copied at once. */
  slots: number;
  libvirt: Libvirt;
  guard: ThawGuard;
  copier: CopierPool;
  openStore: (location: RepositoryLocation) => BlobStore;
  state: HostState;
  captures: CaptureStore;
  fence: Fence;
  /** How fast each repository may be written to, and read in the background. */
  paces: Paces;
  rewrites: RewriteNotes;
  copies: CopyNotes;
  gateways: Gateways;
  stillGuests: StillGuests;
  /** Folder under which libvirtd and its QEMU see their files: "/", or `/proc/<pid>/root` of a daemon in a container. */
  daemonRoot: () => Promise<string>;
  /** What goes into a manifest: Holdfast, Node, libvirt, QEMU. */
  versions: () => Promise<Record<string, string>>;
}
