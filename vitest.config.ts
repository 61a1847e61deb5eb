import { defineConfig } from 'vitest/config';

/**
 * Integration tests that are not run every time: a random life of VMs, random kills, quick restores among failures and from a bucket
 * that is away for long, and files out of backups, where libguestfs boots a VM of its own for each command. `npm run test:long` runs
 * them.
 */
const LONG = [
  'test/soak/**',
  'test/failures/lost-answers.integration.test.ts',
  'test/restores/quick-restore.integration.test.ts',
  'test/gateway/bucket-away.integration.test.ts',
  'test/files/**',
];

/** Tests of the second and third project need a real libvirtd, Temporal server, sshd or database: `*.integration.test.ts`. */
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
          exclude: ['**/node_modules/**', ...LONG],
          testTimeout: 180_000,
          hookTimeout: 180_000,
          // Each file boots guests and daemons of its own, and waits a good deal; more of them starve each other on two cores.
          maxWorkers: 3,
        },
      },
      {
        test: {
          name: 'long',
          include: LONG.map((pattern) => pattern.replace(/\*\*$/, '**/*.integration.test.ts')),
          testTimeout: 180_000,
          hookTimeout: 180_000,
          maxWorkers: 1,
        },
      },
    ],
  },
});
