import { assert } from 'chai';
import { judge } from './rules.ts';

const PRODUCT = 'pkg/pod/x.ts';

/** What is said of the source, without its place. */
function said(source: string, file = PRODUCT): string[] {
  return judge(file, source).map((each) => each.replace(/^[^ ]+ /, ''));
}

describe('the rules', () => {
  const breaches: readonly (readonly [what: string, source: string, says: RegExp, file?: string])[] = [
    ['long lines', `// ${'x'.repeat(120)}\n`, /^a line of more than 120 columns/],
    ['long files', '\n'.repeat(501), /^501 lines; a file has at most 500/],
    ['long functions', `function f(): void {${'\n'.repeat(60)}}\n`, /^a function of 61 lines/],
    ['boolean parameters', 'function f(quiet: boolean): void {}\n', /^quiet: boolean: a boolean parameter/],
    ['boolean parameters of methods', 'class A {\n  f(quiet?: boolean): void {}\n}\n', /a boolean parameter/],
    ['exports that promise nothing', 'export const x = 1;\n', /^this export does not say what it promises/],
    ['default exports', '/** X. */\nexport default 1;\n', /^a default export/],
    ['numbers without a reason', 'const PATIENCE_MS = 5;\n', /^PATIENCE_MS does not say why/],
    ['state without a reason', 'let count = 0;\n', /^state of the module/],
    ['collections without a reason', 'const seen = new Map<string, number>();\n', /^state of the module/],
    [
      'wide doors',
      `export { ${Array.from({ length: 41 }, (_, i) => `a${i}`).join(', ')} } from './a.ts';\n`,
      /^41 names/,
      'pkg/sys/index.ts',
    ],
    [
      'descriptors that are inherited',
      'int f(void) { return open("x", O_RDONLY); }\n',
      /^a descriptor without CLOEXEC/,
      'native/x.c',
    ],
    ['files of processes by number', 'const x = `/proc/${process.ref.pid}/limits`;\n', /^a process by its number/],
    ['errors that quote what was read', 'const x = JSON.parse(text);\n', /^JSON.parse, whose errors quote/],
    ['signals to numbers', 'process.kill(pid, 9);\n', /^a process by its number/],
    ['exit from below', 'void f(void) { exit(1); }\n', /^exit\(\) outside of main/, 'conmon/x.c'],
    [
      'allocations in the monitor',
      'void *f(void) { return malloc(1); }\n',
      /^an allocation in the monitor/,
      'conmon/x.c',
    ],
  ];
  for (const [what, source, says, file] of breaches)
    it(`see ${what}`, () => {
      const found = said(source, file);
      assert.lengthOf(
        found.filter((each) => says.test(each)),
        1,
        found.join('\n'),
      );
    });

  const sound: readonly (readonly [what: string, source: string, file?: string])[] = [
    ['a suite is no function', `describe('x', () => {${'\n'.repeat(100)}});\n`],
    ['a predicate may take a boolean', 'export type F = (quiet: boolean) => void;\n'.replace('export ', '')],
    ['exports may share a docstring', '/** Both. */\nexport const a = 1;\nexport const b = 2;\n'],
    ['numbers may share a sentence', '// Both.\nconst A_MS = 1;\nconst B_MS = 2;\n'],
    ['a table is no state', "const TABLE = new Map([['a', 1]]);\n"],
    ['our own number is our own', 'const x = `/proc/${process.pid}/fd`;\n'],
    ['state with a reason', '/** One process has one of it. */\nlet count = 0;\n'],
    ['tests may do as they like', 'export const x = 1;\nlet y = 0;\nconst Z_MS = 3;\n', 'pkg/pod/x.test.ts'],
    ['generated files are long', '\n'.repeat(900), 'cri/generated/x.ts'],
    ['words are no calls', '/* open( and exit( */\nconst char *m = "cannot open (x)";\n', 'native/x.c'],
    ['flags in the next line', 'int fd = openat(dir,\n  name, O_CLOEXEC);\n', 'native/x.c'],
    ['_exit after a fork', 'void f(void) { _exit(127); }\n', 'conmon/x.c'],
  ];
  for (const [what, source, file] of sound) it(`know that ${what}`, () => assert.deepEqual(said(source, file), []));
});
