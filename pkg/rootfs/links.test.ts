import { expect } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { dangles, type Look, wayOf } from './links.ts';

/** A root with these links, directories and files. */
const root =
  (links: Readonly<Record<string, string>>, there: readonly string[] = []): Look =>
  (path) => {
    const link = links[path];
    if (link !== undefined) return { link };
    return path === '' || there.includes(path) ? 'there' : 'absent';
  };

describe('rootfs/links', () => {
  const rows: readonly (readonly [
    what: string,
    path: string,
    look: Look,
    end: string,
    dangling: 'dangles' | 'is whole',
  ])[] = [
    ['no link', '/run/x', root({}), '/run/x', 'is whole'],
    ['an absolute link to nothing', '/run/x', root({ '/run': '/tmp/run' }, ['/tmp']), '/tmp/run/x', 'dangles'],
    ['a relative one', '/etc/hosts', root({ '/etc': 'absent' }), '/absent/hosts', 'dangles'],
    ['one that leads to something', '/run/x', root({ '/run': '/tmp' }, ['/tmp']), '/tmp/x', 'is whole'],
    ['a chain', '/a/x', root({ '/a': '/b', '/b': 'c/d' }), '/c/d/x', 'dangles'],
    ['a link below a link', '/a/b/x', root({ '/a': '/r', '/r/b': '../s' }, ['/r']), '/s/x', 'dangles'],
    ['a link at the end', '/etc/hosts', root({ '/etc/hosts': '/run/h' }, ['/etc']), '/run/h', 'dangles'],
    ['more .. than there are', '/a/x', root({ '/a': '../../../../etc' }, ['/etc']), '/etc/x', 'is whole'],
    ['.. after a link', '/a/../x', root({ '/a': '/r/s' }, ['/r', '/r/s']), '/r/x', 'is whole'],
    ['.. after what is not there', '/none/../x', root({}), '/x', 'is whole'],
    ['the root', '/../.', root({}), '/', 'is whole'],
    ['a link to the root', '/a/x', root({ '/a': '/' }), '/x', 'is whole'],
  ];
  for (const [what, path, look, end, dangling] of rows) {
    it(`goes on from ${what}: ${path} is ${end} and ${dangling}`, () => {
      const way = wayOf(path, look);
      expect([way.path, dangles(way)]).to.deep.equal([end, dangling === 'dangles']);
    });
  }

  it('says where each link leads', () => {
    expect(wayOf('/a/x', root({ '/a': '/b', '/b': 'c' })).links).to.deep.equal([
      { at: '/a', leadsTo: '/c', dangles: true },
      { at: '/b', leadsTo: '/c', dangles: true },
    ]);
  });

  it('tells every place that it leads through', () => {
    const { places } = wayOf('/a/x', root({ '/a': '/proc/self/../../b' }));
    expect(places).to.deep.equal(['/a', '/proc', '/proc/self', '/proc', '', '/b', '/b/x']);
  });

  it('refuses a circle, and says which', () => {
    for (const links of [{ '/a': '/a' }, { '/a': 'b', '/b': 'a' }, { '/a': 'a/b' }])
      expect(() => wayOf('/a/x', root(links))).to.throw(
        RuntimeError,
        /"\/a\/x" in the image leads through more than 40/,
      );
  });
});
