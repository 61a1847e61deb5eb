import { CONTROL_QUEUE, hostQueue } from '../../schemas/queues.ts';
import { isServed } from '../../operations/worker-state.ts';
import { fail, ok, reason, type Check } from './check.ts';

/** Temporal, and the workers that take work from it. */
export const checkTemporal: Check = async ({ context, host }) => {
  const { address, namespace } = context.installation.temporal;
  try {
    const client = await context.client();
    await client.workflowService.describeNamespace({ namespace });
    const control = await isServed(client, CONTROL_QUEUE, 'workflows');
    const ours = await isServed(client, hostQueue(host), 'activities');
    return [
      ok('temporal', `answers at ${address}, namespace ${namespace}`),
      control
        ? ok('control worker', 'takes work')
        : fail('control worker', 'none takes work; start one: holdfast worker control'),
      ours
        ? ok('host worker', `${host} takes work`)
        : fail(
            'host worker',
            `none takes the work of host ${host}; start it there: holdfast worker host --host ${host}`,
          ),
    ];
  } catch (error) {
    return [fail('temporal', reason(error))];
  }
};
