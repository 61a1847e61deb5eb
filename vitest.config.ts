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
          maxWorkers: 3, // by default one less than there are cores: on two cores all files would wait for each other
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/**/*.integration.test.ts'],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          // Each file boots guests and daemons of its own, and waits a good deal; more of them starve each other on two cores.
          maxWorkers: 3,
        },
      },
    ],
  },
});
