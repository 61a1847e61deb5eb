/** Somebody asked the command to end: Ctrl-C, or its service manager. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
}

/** Aborts on the first SIGTERM or SIGINT; a second one ends the process at once. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(1);
      controller.abort(new Stopped(`stopped by ${name}`));
    });
  }
  return controller.signal;
}
