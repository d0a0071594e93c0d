import { expect } from 'chai';
import { stringify } from 'smol-toml';
import { describeEmptiness } from '../../base/fake-emptiness.ts';
import { parseRegistries } from './registries-conf.ts';

describe('image/policy/registries-conf', () => {
  it('names file and place of a mistake', async () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['[[registry]\n', /c\.conf is not valid TOML/],
      ['registry = 1', /\[\[registry\]\]/],
      ['[[registry]]\nblocked = true', /neither prefix nor location/],
      ['[[registry]]\nlocation = "https://x"', /must not have a scheme/],
      ['unqualified-search-registries = ["a b"]', /does not start with a registry host/],
      [
        '[[registry]]\nlocation = "x.example"\n[[registry]]\nprefix = "x.example"\ninsecure = true',
        /given twice, with different/,
      ],
      ['[[registry]]\nlocation = "x"\n[[registry.mirror]]\ninsecure = true', /has no location/],
      [
        '[[registry]]\nlocation = "x"\n[[registry.mirror]]\nlocation = "y"\npull-from-mirror = "x"',
        /must be one of all, digest-only, tag-only/,
      ],
      ['short-name-mode = "x"', /short-name-mode/],
      ['unqualified-search-registries = "docker.io"', /must be a list/],
      ['[aliases]\nx = 1', /alias/],
      ['aliases = "x"', /"aliases" is not a table/],
      ['[[registry]]\nlocation = "x"\nblocked = ""', /blocked must be true or false/],
      ['unqualified-search-registries = ["https://x"]', /must not have a scheme/],
      [
        '[[registry]]\nlocation = "x"\nmirror-by-digest-only = true\n' +
          '[[registry.mirror]]\nlocation = "y"\npull-from-mirror = "all"',
        /exclude each other/,
      ],
    ];
    for (const [text, why] of rows)
      expect(() => parseRegistries(text, '/c.conf'), text)
        .to.throw(why)
        .with.property('code', 'FailedPrecondition');
    expect(() => parseRegistries('[[registry]\n', '/c.conf')).to.throw(
      /c\.conf is not valid TOML, line 1, column \d+: .*expected/,
    );
  });

  it('takes the first of several tables for one prefix, as the container tools do', () => {
    const { registries } = parseRegistries(
      '[[registry]]\nlocation = "x.example"\n[[registry.mirror]]\nlocation = "m.example"\n' +
        '[[registry]]\nprefix = "x.example"\n',
      '/c.conf',
    );
    expect(registries.get('x.example')?.mirrors).to.have.length(1);
  });
});

describeEmptiness({
  name: 'registries.conf',
  notation: 'toml',
  samples: [
    {
      'unqualified-search-registries': ['s.example'],
      'short-name-mode': 'disabled',
      'credential-helpers': ['one'],
      registry: [
        {
          prefix: 'a.example',
          location: 'b.example',
          insecure: true,
          blocked: true,
          mirror: [{ location: 'm.example', insecure: true, 'pull-from-mirror': 'tag-only' }],
        },
      ],
      aliases: { short: 'long.example/x' },
    },
    {
      registry: [
        {
          prefix: 'a.example',
          location: 'b.example',
          'mirror-by-digest-only': true,
          mirror: [{ location: 'm.example' }],
        },
      ],
    },
  ],
  names: ['aliases'],
  read: (document) => parseRegistries(stringify(document), 'test'),
  keys: {
    'unqualified-search-registries': 'unset',
    'short-name-mode': 'unset',
    'credential-helpers': 'unset',
    registry: 'unset',
    'registry[].prefix': 'unset',
    'registry[].location': 'unset',
    'registry[].insecure': 'unset',
    'registry[].blocked': { absent: 'unset', empty: 'refused', why: 'whoever wrote the word meant to keep it out' },
    'registry[].mirror-by-digest-only': 'unset',
    'registry[].mirror': 'unset',
    'registry[].mirror[].location': 'needed',
    'registry[].mirror[].insecure': 'unset',
    'registry[].mirror[].pull-from-mirror': 'unset',
    aliases: 'unset',
    'aliases.*': { absent: 'unset', empty: 'own', why: '"" takes an alias of an earlier file away' },
  },
});

describeEmptiness({
  name: 'registries.conf, version 1',
  notation: 'toml',
  samples: [
    {
      registries: {
        search: { registries: ['s.example'] },
        insecure: { registries: ['i.example'] },
        block: { registries: ['b.example'] },
      },
    },
  ],
  read: (document) => parseRegistries(stringify(document), 'test'),
  keys: {
    registries: 'unset',
    'registries.search': 'unset',
    'registries.search.registries': 'unset',
    'registries.insecure': 'unset',
    'registries.insecure.registries': 'unset',
    'registries.block': 'unset',
    'registries.block.registries': 'unset',
  },
});
