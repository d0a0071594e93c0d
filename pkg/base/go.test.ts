import { expect } from 'chai';
import { GoObject, isObject, isUnset } from './go.ts';

describe('base/go', () => {
  it('finds members in any case, and takes null and empty text for absence', () => {
    const object = new GoObject({ Env: ['a'], labelS: null, User: '', ſize: 7, count: 0, flag: false });
    expect(['env', 'ENV', 'eNV'].map((name) => object.get(name))).to.deep.equal([['a'], ['a'], ['a']]);
    expect(['labels', 'user', 'absent', '__proto__', 'constructor'].map((name) => object.get(name))).to.deep.equal([
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
    expect([object.get('size'), object.get('count'), object.get('flag')]).to.deep.equal([7, 0, false]);
    expect(['env', 'labels', 'user', 'absent'].map((name) => object.has(name))).to.deep.equal([
      true,
      false,
      true,
      false,
    ]);
  });

  it('takes the last of several spellings, and says that there are several', () => {
    const object = new GoObject({ layers: [1], Layers: [2] });
    expect([object.get('LAYERS'), object.twin]).to.deep.equal([[2], 'Layers']);
    expect(new GoObject({ layers: [1], manifests: [2] }).twin).to.equal(undefined);
    expect(new GoObject(JSON.parse('{"__proto__": 1}') as object as Record<string, unknown>).get('__proto__')).to.equal(
      1,
    );
  });

  it('tells objects from lists and null', () => {
    expect([{}, [], null, 'x', undefined].map(isObject)).to.deep.equal([true, false, false, false, false]);
    expect([GoObject.of([]), GoObject.of(null), GoObject.of('')]).to.deep.equal([undefined, undefined, undefined]);
    expect(['', null, undefined, 0, false, []].map(isUnset)).to.deep.equal([true, true, true, false, false, false]);
  });
});
