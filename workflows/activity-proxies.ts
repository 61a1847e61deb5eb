import {
  ActivityCancellationType,
  proxyActivities,
  proxyLocalActivities,
  type RetryPolicy,
} from '@temporalio/workflow';
import type { ControlActivities } from '../activities/control/index.ts';
import type { HostActivities, HostDataActivities, HostJobActivities } from '../activities/host/index.ts';
import { hostDataQueue, hostJobsQueue, hostQueue } from '../schemas/queues.ts';

const patient: RetryPolicy = { initialInterval: '1 second', maximumInterval: '15 seconds', backoffCoefficient: 1.6 };

/**
 * Steps that need the catalog. Local: the control worker, which runs the workflow, runs them itself, within the same
 * workflow task. As activities of the server the twelve of a backup cost more time than an increment's copy. A worker
 * killed between two tasks makes its successor repeat those of the open task, so each is repeatable, also in a row.
 */
export const controlActivities = () =>
  proxyLocalActivities<ControlActivities>({ startToCloseTimeout: '30 seconds', retry: patient });

/** Reports on their way to a server elsewhere: eight attempts in about a quarter of an hour. */
export const deliveries = () =>
  proxyActivities<ControlActivities>({
    startToCloseTimeout: '2 minutes',
    retry: { initialInterval: '5 seconds', maximumInterval: '5 minutes', backoffCoefficient: 3, maximumAttempts: 8 },
  });

/** Quick steps on a host. The heartbeat tells soon when the worker dies in the middle of one. */
export const hostActivities = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    scheduleToCloseTimeout: '15 minutes',
    startToCloseTimeout: '5 minutes',
    heartbeatTimeout: '15 seconds',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: patient,
  });

/** Steps that ask a host whether it has something: an answer soon, or none. */
export const hostProbes = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    scheduleToCloseTimeout: '20 seconds',
    startToCloseTimeout: '15 seconds',
    retry: { ...patient, maximumAttempts: 4 },
  });

/** Removal of files: a repository that cannot be written to is told soon, and the delete repeated by who asked. */
export const hostDeletes = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    scheduleToCloseTimeout: '5 minutes',
    startToCloseTimeout: '2 minutes',
    heartbeatTimeout: '15 seconds',
    retry: { ...patient, maximumAttempts: 3 },
  });

/** Looks through a whole repository, which may be on a slow place: it goes on as long as the host gives heartbeats. */
export const hostReads = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    scheduleToCloseTimeout: '1 hour',
    startToCloseTimeout: '30 minutes',
    heartbeatTimeout: '15 seconds',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { ...patient, maximumAttempts: 6 },
  });

/** Undo steps of a host: tried until the host answers, within a bound, so that the run has an end. */
export const hostUndo = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    scheduleToCloseTimeout: '30 minutes',
    startToCloseTimeout: '5 minutes',
    heartbeatTimeout: '15 seconds',
    retry: patient,
  });

/** Merges of overlays: as long as their bytes take. What fails again and again is told, and repaired by `chain finish`. */
export const hostMerges = (host: string) =>
  proxyActivities<HostActivities>({
    taskQueue: hostQueue(host),
    startToCloseTimeout: '12 hours',
    heartbeatTimeout: '15 seconds',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { ...patient, maximumAttempts: 6 },
  });

/** Copies: slots of their own; a copy that gives no heartbeat for `heartbeatSeconds` is lost and retried. */
export const hostTransfers = (host: string, limits: { timeLimitSeconds: number; heartbeatSeconds: number }) =>
  proxyActivities<HostDataActivities>({
    taskQueue: hostDataQueue(host),
    startToCloseTimeout: limits.timeLimitSeconds * 1000, // counts work, not waiting for a slot
    heartbeatTimeout: limits.heartbeatSeconds * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { ...patient, initialInterval: '500 milliseconds' },
  });

/** Work on stored backups. `timeLimitSeconds` counts from the real start of an attempt, not the waiting for a slot. */
export const hostJobs = (host: string, limits: { timeLimitSeconds: number; heartbeatSeconds: number }) =>
  proxyActivities<HostJobActivities>({
    taskQueue: hostJobsQueue(host),
    startToCloseTimeout: limits.timeLimitSeconds * 1000,
    heartbeatTimeout: limits.heartbeatSeconds * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: patient,
  });

/** Comparison of stored bytes with their hashes, some files at a time: as long as their bytes take at the rate that is asked for. */
export const hostChecks = (host: string, heartbeatSeconds: number) =>
  proxyActivities<HostJobActivities>({
    taskQueue: hostJobsQueue(host),
    startToCloseTimeout: '7 days',
    heartbeatTimeout: heartbeatSeconds * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { ...patient, maximumAttempts: 12 },
  });

/** An attempt of one step of a validation; all attempts together, with their waiting for a slot, get twice as long. */
const VALIDATION_SECONDS = 28_800;

/** Steps of validations: tried a few times, so that a daemon may be restarted, and then told as what could not be tried. */
export const hostValidations = (host: string, heartbeatSeconds: number) =>
  proxyActivities<HostJobActivities>({
    taskQueue: hostJobsQueue(host),
    startToCloseTimeout: VALIDATION_SECONDS * 1000,
    scheduleToCloseTimeout: 2 * VALIDATION_SECONDS * 1000,
    heartbeatTimeout: heartbeatSeconds * 1000,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { initialInterval: '2 seconds', backoffCoefficient: 2, maximumInterval: '1 minute', maximumAttempts: 8 },
  });
