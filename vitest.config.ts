import { defineConfig } from 'vitest/config';

/** Tests of the second project need a real libvirtd, Temporal server, sshd or database: `*.integration.test.ts`. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['**/node_modules/**', '**/*.integration.test.ts'],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/**/*.integration.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          // Each file boots guests and daemons of its own; more than two at once starve each other on a small machine.
          maxWorkers: 2,
        },
      },
    ],
  },
});
