import { expect } from 'chai';
import { RuntimeError } from './errors.ts';
import { emptinessOf } from './fake-emptiness.ts';
import type { ForeignFormat } from './fake-emptiness.ts';
import { GoObject } from './go.ts';
import type { PlainObject } from './go.ts';

/** Whether each check of a format holds. */
async function outcomes(format: ForeignFormat): Promise<Record<string, boolean>> {
  const found: Record<string, boolean> = {};
  for (const { name, run } of emptinessOf(format))
    found[name] = await run().then(
      () => true,
      () => false,
    );
  return found;
}

const sample = { mode: 'fast', list: [{ inner: 'x' }], people: { ann: 'y' }, note: 'n' };
const format: ForeignFormat = {
  name: 'a format',
  notation: 'json',
  samples: [sample],
  names: ['people'],
  read(document) {
    const object = new GoObject(document);
    const first = GoObject.of((object.get('list') as PlainObject[] | undefined)?.[0]);
    if (first !== undefined && first.get('inner') === undefined) throw new RuntimeError('InvalidArgument', 'no inner');
    return [object.get('mode'), first?.get('inner'), object.get('people')];
  },
  keys: {
    mode: 'unset',
    list: 'unset',
    'list[].inner': 'needed',
    people: 'unset',
    'people.*': { absent: 'unset', empty: 'own', why: 'names are kept' },
    note: 'ignored',
  },
};

describe('base/fake-emptiness', () => {
  it('finds nothing in a reader that keeps its promises', async () => {
    const found = await outcomes(format);
    expect(found).to.have.property('a format: 6 keys, each with a meaning', true);
    expect(Object.keys(found)).to.have.length(12);
    expect(Object.values(found)).to.not.include(false);
  });

  it('finds keys without a meaning, and meanings without a key', async () => {
    const [{ list: _list, ...fewer }, first] = [format.keys, 'a format: 6 keys, each with a meaning'];
    expect((await outcomes({ ...format, keys: fewer }))[first]).to.equal(false);
    expect((await outcomes({ ...format, keys: { ...format.keys, more: 'unset' } }))[first]).to.equal(false);
  });

  it('finds each promise that is broken', async () => {
    const rows: readonly (readonly [key: string, keys: ForeignFormat['keys']])[] = [
      ['mode', { mode: 'needed' }],
      ['mode', { mode: 'ignored' }],
      ['mode', { mode: { absent: 'unset', empty: 'own', why: '' } }],
      ['list[].inner', { 'list[].inner': 'unset' }],
      ['people.*', { 'people.*': 'unset' }],
      ['note', { note: 'unset' }],
    ];
    for (const [key, keys] of rows) {
      const found = await outcomes({ ...format, keys: { ...format.keys, ...keys } });
      const broken = Object.entries(found).filter(([, holds]) => !holds);
      expect(broken.map(([name]) => name.split(':')[0])).to.deep.equal([key], JSON.stringify(keys));
    }
  });

  it('finds readers that know one spelling only, and those that fail otherwise than by a RuntimeError', async () => {
    const exact = await outcomes({ ...format, read: ({ mode }) => mode, keys: { ...format.keys, mode: 'unset' } });
    expect(exact['mode in any case']).to.equal(false);
    const crashing = await outcomes({ ...format, read: ({ mode }) => (mode as string).length });
    expect(crashing['mode: not set by absence, "" or null']).to.equal(false);
  });
});
