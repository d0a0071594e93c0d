import type { Mutant } from './mutants.ts';

/** What is read and whom it is about: requests, files that others name, processes by their numbers. */
export const READING_MUTANTS: readonly Mutant[] = [
  {
    what: 'a request has so many fields',
    file: 'cri/wire.ts',
    from: '    this.#fieldsLeft -= fields;',
    to: '',
    tests: ['cri/codec.test.ts'],
  },
  {
    what: 'what is no file is not opened',
    file: 'pkg/base/files.ts',
    from: '    if (!(await look.stat()).isFile()) throw notRegular(path);',
    to: '',
    tests: ['pkg/base/files.test.ts'],
  },
  {
    what: 'an error quotes nothing of a file',
    file: 'pkg/base/json.ts',
    from: 'place === undefined ? why : `${why}, ${place}`',
    to: 'said',
    tests: ['pkg/base/json.test.ts', 'pkg/pod/seccomp-file.test.ts'],
  },
  {
    what: 'an error quotes nothing of a profile',
    file: 'pkg/spec/parse.ts',
    from: 'this.#shows ?',
    to: 'true ?',
    tests: ['pkg/spec/seccomp.test.ts'],
  },
  {
    what: 'what a monitor has made is no process of the node',
    file: 'pkg/sys/processes.ts',
    from: 'startTicks >= maker.startTicks',
    to: 'true',
    tests: ['pkg/sys/*.test.ts'],
  },
  {
    what: 'a number in a cgroup is whose it was',
    file: 'pkg/sys/cgroups.ts',
    from: 'filter(({ pid }) => still.has(pid))',
    to: 'filter(({ pid }) => pid > 0 || still.has(pid))',
    tests: ['pkg/sys/*.test.ts'],
  },
  {
    what: 'a small file is small',
    file: 'pkg/base/files.ts',
    from: '    if (stat.size > max) throw tooLarge(path, max);',
    to: '',
    tests: ['pkg/base/files.test.ts'],
  },
  {
    what: 'a small file on any disk is small',
    file: 'pkg/base/files.ts',
    from: '    if (size > max) throw tooLarge(path, max);',
    to: '',
    tests: ['pkg/base/files.test.ts'],
  },
];
