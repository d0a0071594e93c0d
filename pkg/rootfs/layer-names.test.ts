import { assert } from 'chai';
import { dir, FakeTree, file, hardlink, refusalOf, symlink, unpack } from './fake-tree.ts';
import { LayerNames } from './layer-names.ts';
import { MemoryAccount } from './memory-account.ts';
import { paxEntry } from './tar-build.ts';

describe('rootfs/layer-names: what a layer makes us remember', () => {
  const many = (entry: (index: number) => Buffer): Buffer[] => Array.from({ length: 500 }, (_, index) => entry(index));
  const long = (index: number): string => `${String(index).padStart(80, 'x')}`;
  const acl = (index: number): Buffer =>
    paxEntry([['SCHILY.xattr.system.posix_acl_default', 'x'.repeat(1_000)]], {
      name: `${index}`,
      type: '5',
    });
  const cases: readonly (readonly [what: string, entries: readonly Buffer[], tooLittle?: number])[] = [
    ['directories', many((index) => dir(long(index)))],
    ['directories without an entry', many((index) => file(`${long(index)}/x`))],
    ['default ACLs', many(acl), 400_000],
    ['hard links into the layers below', many((index) => hardlink(`${index}`, long(index)))],
    ['opaque directories', many((index) => file(`${long(index)}/.wh..wh..opq`))],
  ];
  for (const [what, entries, tooLittle = 100_000] of cases) {
    it(`is counted: ${what}`, () => {
      const unpacked = (memoryBytes: number): string =>
        refusalOf(() => unpack(entries, new FakeTree(), { memoryBytes }));
      assert.equal(unpacked(1_000_000), 'accepted');
      assert.match(
        unpacked(tooLittle),
        /^ResourceExhausted: cannot unpack .*remembering the directories and links of the layer would take the memory/,
      );
    });
  }

  it('is nothing for files, links of the layer, and whiteouts', () => {
    const entries = [
      file('a'),
      ...many((index) => file(`f${index}`)),
      ...many((index) => hardlink(`h${index}`, 'a')),
      ...many((index) => symlink(`s${index}`, 'a')),
      ...many((index) => file(`.wh.w${index}`)),
    ];
    assert.equal(
      refusalOf(() => unpack(entries, new FakeTree(), { memoryBytes: 0 })),
      'accepted',
    );
  });

  it('is given back by what is forgotten, and said again', () => {
    const account = new MemoryAccount(10_000);
    const names = new LayerNames(account);
    for (let round = 0; round < 100; round++) {
      names.setDirectory('d', 'implicit');
      names.setDirectory('d/e', 'described');
      names.setTime('d/e', round, 0);
      names.setTime('d/e', round, 1);
      names.setDefaultAcl('d/e', Buffer.alloc(5_000));
      names.setDefaultAcl('d/e', Buffer.alloc(6_000));
      names.setOpaque('d/e');
      names.setLink('d/l', 'x');
      names.setLink('d/l', 'y');
      names.forget('d');
    }
    account.take(10_000, 'all of it');
    assert.isUndefined(names.directory('d'));
    assert.deepEqual([...names.implicit(), ...names.links(), ...names.times(), ...names.defaultAcls()], []);
  });
});
