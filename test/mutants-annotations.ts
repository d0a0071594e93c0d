import type { Mutant } from './mutants.ts';

/** The same for what pods ask for by annotations. */
export const ANNOTATION_MUTANTS: readonly Mutant[] = [
  {
    what: 'a pod that relies on a user namespace by annotation is not root of the node',
    file: 'pkg/pod/handlers.ts',
    from: '  refuseLostUserNamespace(config.annotations);',
    to: '',
    tests: ['pkg/pod/userns-mode.test.ts'],
    grep: 'annotation',
  },
  {
    what: 'an id map by annotation holds no root of the node',
    file: 'pkg/pod/userns-mode.ts',
    from: 'if (mappings.some(({ hostId }) => hostId === 0))',
    to: 'if (false)',
    tests: ['pkg/pod/userns-mode.test.ts'],
  },
  {
    what: 'an annotation counts by its whole key',
    file: 'pkg/spec/annotations.ts',
    from: '  if (names.has(asked)) return true;',
    to: '  if ([...names].some((name) => asked.startsWith(name))) return true;',
    tests: ['pkg/spec/*.test.ts'],
  },
  {
    what: 'a container without the seccomp profile that its pod names does not run without any',
    file: 'pkg/spec/annotations.ts',
    from: "    if (mayUse(annotation)) return { annotation, reference: pod[annotation] ?? '' };",
    to: '    return undefined;',
    tests: ['pkg/spec/annotations.test.ts', 'pkg/pod/seccomp-artifact.test.ts'],
  },
  {
    what: 'a profile of an annotation does not take the place of the one that a container has',
    file: 'pkg/pod/seccomp-artifact.ts',
    from: "kind === 'runtimeDefault' || kind === 'localhost') return undefined;",
    to: 'false) return undefined;',
    tests: ['pkg/pod/seccomp-artifact.test.ts'],
  },
  {
    what: 'what is changed of processors is written down first',
    file: 'pkg/runtime/cpus.ts',
    from: "await replaceFile(journal, JSON.stringify(noted), 'memory');",
    to: '',
    tests: ['pkg/runtime/cpus.test.ts'],
  },
  {
    what: 'names of blocked system calls, which a container chooses, are bounded',
    file: 'pkg/pod/blocked-calls.ts',
    from: 'tally.counts.size < limits.blockedCallNamesCount',
    to: 'true',
    tests: ['pkg/pod/blocked-calls.test.ts'],
  },
  {
    what: 'programs with threads are not killed for clone3',
    file: 'pkg/spec/seccomp.ts',
    from: 'FORBIDDING.has(action) && errnoRet !== ENOSYS && ',
    to: 'FORBIDDING.has(action) && ',
    tests: ['pkg/pod/blocked-calls.test.ts'],
  },
  {
    what: 'hooks do not see an annotation that the handler does not allow',
    file: 'pkg/spec/annotations.ts',
    from: '!hasEffect(key) || allows(list, key, containerName)',
    to: 'true',
    tests: ['pkg/spec/annotations.test.ts'],
    grep: 'hooks',
  },
  {
    what: 'a table of a handler that is written anew takes the earlier one away',
    file: 'pkg/config/collect.ts',
    from: '    this.handlers.set(name, given);',
    to: '    this.handlers.set(name, new Map([...(this.handlers.get(name) ?? []), ...given]));',
    tests: ['pkg/config/handlers.test.ts'],
  },
];
