import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { ProbeVmRequest, VmProbe } from '../../schemas/probe.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { whyNotSnapshot } from '../strategy-fit.ts';
import { runningBitmaps } from './bitmaps.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { powerOf } from './power.ts';
import { snapshotsWithMemory } from './snapshots.ts';
import { stoppedBitmaps } from './stopped-images.ts';

export const createProbeVm = ({ host, libvirt }: Pick<HostDependencies, 'host' | 'libvirt'>) => ({
  /** What is on a VM of checkpoints, ours and others', and whether a strategy would fit it. Changes nothing. */
  async probeVm(vm: { uuid: string; name: string }, { strategy, includeDisks, excludeDisks }: ProbeVmRequest) {
    return await withHeartbeat('looking at the VM', async (): Promise<VmProbe> => {
      const signal = cancellationSignal();
      const domain = await domainOf(libvirt, vm, host, { signal });
      const power = powerOf((await libvirt.state(domain, { signal })).state);
      const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
      const filled = disks.filter(({ device, empty }) => device === 'disk' && !empty);
      const running =
        power === 'running' || power === 'paused'
          ? await runningBitmaps(libvirt, domain, filled, { signal })
          : undefined;
      const images: VmProbe['images'] = [];
      for (const { target, sourcePath, format } of filled) {
        const bitmaps =
          running?.get(target) ?? (sourcePath === null ? [] : await stoppedBitmaps(sourcePath, format, { signal }));
        images.push({ target, path: sourcePath, format, bitmaps });
      }
      const checkpoints: VmProbe['checkpoints'] = [];
      for (const name of await libvirt.checkpointList(domain, { topological: true }, { signal })) {
        checkpoints.push({ name, parent: (await libvirt.checkpointParent(domain, name, { signal })) ?? null });
      }
      const doesNotFit =
        strategy === 'snapshot'
          ? whyNotSnapshot(
              { name: vm.name, disks, memorySnapshots: await snapshotsWithMemory(libvirt, domain, { signal }) },
              { includeDisks: includeDisks ?? [], excludeDisks: excludeDisks ?? [] },
            )
          : [];
      return { host, power, checkpoints, images, doesNotFit };
    });
  },
});
