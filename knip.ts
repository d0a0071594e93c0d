/**
 * What is dead: files, packages and exports that nothing uses. With `--production` tests do not count as a use: what
 * only they use is dead, too, unless its own file uses it.
 */
const shipped = process.argv.includes('--production');

export default {
  entry: [
    'cri/{main,boot}.ts!',
    'pkg/rootfs/unpack-worker.ts!',
    // Not shipped, and no tests either: what they use is used.
    'scripts/*.{ts,mjs,cjs}!',
    'bench/{main,conmon}.ts!',
    'test/e2e/{*.e2e,image-child}.ts',
    'test/conformance/*.e2e.ts',
    'test/cluster/{*.e2e,shared}.ts',
    '{pkg,cri,conmon,scripts}/**/*.test.ts',
  ],
  project: [
    '{cri,pkg}/**/*.ts!',
    '{bench,scripts}/**/*.ts!',
    '{test,conmon}/**/*.ts',
    '!cri/generated/**',
    '!pkg/cri-api/types.ts',
    '!{cri,pkg}/**/{fake,fakes,fake-*,conformance,sim,tar-build,tar-fuzz}.ts!',
    '!pkg/spec/golden/**!',
    '!pkg/image/signature/fakes.ts!',
  ],
  // Run by path, since the check also works without a PATH.
  ignoreDependencies: ['oxlint', 'oxlint-tsgolint'],
  ignoreExportsUsedInFile: shipped ? true : { interface: true, type: true },
  // Exports that say in their docstring that they are for tests.
  tags: shipped ? ['-fortests'] : [],
  rules: { binaries: 'off', ...(shipped ? { types: 'off' } : {}) },
};
