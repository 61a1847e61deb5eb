/**
 * How the process of a gateway is started, beside VMs that need the memory: bytes lie in memory that is bounded anyway, so a small
 * young generation costs nothing, and two arenas of the C library hold less that is free than one for each thread.
 */
export const NODE_FLAGS = ['--disable-warning=ExperimentalWarning', '--max-semi-space-size=1'];
export const ENVIRONMENT = { MALLOC_ARENA_MAX: '2' };
