import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

const noTemporal = { group: ['@temporalio/*'], message: 'Below activities/ nobody knows Temporal.' };
const noBackups = {
  group: ['**/copier/**', '**/activities/**', '**/catalog/**'],
  message: 'Codecs and clients know nothing of backups.',
};
/** What each folder may not import, with the reason. README.md, "Where a byte travels", draws the tree. */
const borders = {
  libvirt: [noTemporal, noBackups],
  nbd: [noTemporal, noBackups],
  qcow2: [noTemporal, noBackups],
  repository: [noTemporal, noBackups],
  files: [
    noTemporal,
    { group: ['**/catalog/**', '**/libvirt/**'], message: 'Files are read out of a repository alone.' },
  ],
  copier: [noTemporal, { group: ['**/activities/**', '**/catalog/**'], message: 'The copier serves activities.' }],
  gateway: [noTemporal, { group: ['**/catalog/**'], message: 'A gateway needs no installation.' }],
  catalog: [noTemporal, { group: ['**/activities/**', '**/copier/**'], message: 'The catalog serves activities.' }],
  standalone: [noTemporal, { group: ['**/catalog/**'], message: 'Works when the catalog and Temporal are lost.' }],
  workflows: [
    { regex: '/activities/', allowTypeImports: true, message: 'Workflows import activities only as types.' },
    {
      group: [
        '**/libvirt/**',
        '**/nbd/**',
        '**/qcow2/**',
        '**/repository/**',
        '**/copier/**',
        '**/catalog/**',
        'node:*',
      ],
      message: 'Workflows are deterministic and import schemas only.',
    },
  ],
};

export default defineConfig(
  globalIgnores(['node_modules', '.tools', '.holdfast', 'coverage']),
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ['*.js'] }, tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      // `await using _lock`: held, not read.
      '@typescript-eslint/no-unused-vars': ['error', { varsIgnorePattern: '^_' }],
      '@typescript-eslint/require-await': 'off', // an activity that is quick today keeps its async shape
    },
  },
  ...Object.entries(borders).map(([folder, patterns]) => ({
    files: [`${folder}/**/*.ts`],
    rules: { '@typescript-eslint/no-restricted-imports': ['error', { patterns }] },
  })),
  {
    files: ['test/**/*.ts', 'bench/**/*.ts'],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
);
