import { assert } from 'chai';
import { parseToml } from './toml.ts';

describe('toml places', () => {
  const text = [
    '# [not.a.table]',
    'top = """a',
    '[b]',
    '"""',
    '[a."b.c"]',
    '  x = { y = 1, z = [\'#\', "]"] } # k = 1',
    'list = [',
    '  "one", # ] k = 2',
    '  [2]',
    ']',
    "s = '''",
    'k = 3',
    "'''",
    'd.e = 1',
    '[[rows]]',
    '"k\\u0065y" = 1',
  ].join('\r\n');

  const found: readonly (readonly [path: readonly string[], line: number, column: number])[] = [
    [['top'], 2, 1],
    [['a', 'b.c'], 5, 1],
    [['a', 'b.c', 'x'], 6, 3],
    [['a', 'b.c', 'x', 'y'], 6, 3],
    [['a', 'b.c', 'list'], 7, 1],
    [['a', 'b.c', 's'], 11, 1],
    [['a', 'b.c', 'd', 'e'], 14, 1],
    [['rows'], 15, 1],
    [['rows', 'key'], 16, 1],
  ];
  for (const [path, line, column] of found) {
    it(`finds ${path.join('/')}`, () => {
      assert.deepEqual(parseToml(text, 'f').where(path), { line, column });
    });
  }

  it('does not find what is inside strings, arrays and comments', () => {
    const document = parseToml(text, 'f');
    assert.deepEqual(
      [document.where(['b']), document.where(['k']), document.where(['not'])],
      [undefined, undefined, undefined],
    );
  });
});
