/** Queue of all workflows and of the activities that need the catalog. */
export const CONTROL_QUEUE = 'control';
/** Quick steps and every undo of one KVM host. */
export const hostQueue = (host: string): string => `host:${host}`;
/** Copies of one KVM host, with a slot per disk, so that a hung copy never blocks an undo. */
export const hostDataQueue = (host: string): string => `host:${host}:data`;
/** Work on stored backups, like compression and validation, with slots of its own: backups and restores never wait for it. */
export const hostJobsQueue = (host: string): string => `host:${host}:jobs`;
