import { inventoryHostRequest, type InventoryHostRequest } from '../schemas/requests.ts';
import { controlActivities, hostActivities } from './activity-proxies.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';

/** Notes in the catalog which VMs a host has and what its libvirt and QEMU can do. */
export async function inventoryHost(request: InventoryHostRequest): Promise<{ host: string; vms: number }> {
  const { host } = parseRequest(inventoryHostRequest, 'inventoryHost', request);
  const view = new OperationView('inventoryHost', '');
  view.about({ host });
  view.step('asking the host');
  const inventory = await hostActivities(host).listVms();
  await controlActivities().recordInventory(inventory);
  view.ended('done', `${inventory.vms.length} VMs`);
  return { host, vms: inventory.vms.length };
}
