import { expect } from 'chai';
import { describeEmptiness } from '../base/fake-emptiness.ts';
import { limits } from '../base/limits.ts';
import { digestOf } from './digest.ts';
import { parseImageConfig } from './image-config.ts';

const D = digestOf('x');
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

describe('oci/image-config', () => {
  it('reads configs, with null for empty as docker writes', () => {
    const full = parseImageConfig(
      json({
        architecture: 'amd64',
        os: 'linux',
        rootfs: { type: 'layers', diff_ids: [D] },
        config: {
          User: '1000:1000',
          Env: ['A=b'],
          Entrypoint: ['/x'],
          Cmd: null,
          Volumes: { '/v': {} },
          WorkingDir: '/w',
          Labels: { a: 'b' },
          StopSignal: 'SIGQUIT',
          ExposedPorts: { '80/tcp': {} },
        },
      }),
    );
    expect(full).to.deep.include({
      user: '1000:1000',
      env: ['A=b'],
      entrypoint: ['/x'],
      cmd: [],
      volumes: ['/v'],
      workingDir: '/w',
      stopSignal: 'SIGQUIT',
      exposedPorts: ['80/tcp'],
      diffIds: [D],
    });
    expect({ ...full.labels }).to.deep.equal({ a: 'b' });
    expect(parseImageConfig(json({ rootfs: { type: 'layers', diff_ids: null }, config: null }))).to.deep.include({
      user: '',
      env: [],
      diffIds: [],
    });
  });

  it('takes a label that is no UTF-8, as Go does', () => {
    const latin = '{"rootfs":{"type":"layers","diff_ids":[]},"author":"\xfc","config":{"Labels":{"by":"Jos\xe9"}}}';
    expect({ ...parseImageConfig(Buffer.from(latin, 'latin1')).labels }).to.deep.equal({ by: 'Jos\ufffd' });
  });

  it('keeps a label named __proto__ a label', () => {
    const read = parseImageConfig(
      Buffer.from(`{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Labels":{"__proto__":"x","constructor":"y"}}}`),
    );
    expect(Object.entries(read.labels)).to.deep.equal([
      ['__proto__', 'x'],
      ['constructor', 'y'],
    ]);
    expect(({} as Record<string, unknown>)['x']).to.equal(undefined);
  });

  it('refuses a User that no login is as long as: it goes into every list of images', () => {
    const config = (user: string): Buffer => json({ rootfs: { type: 'layers', diff_ids: [] }, config: { User: user } });
    expect(parseImageConfig(config('u'.repeat(limits.imageUserBytes))).user).to.have.length(limits.imageUserBytes);
    for (const user of [
      'u'.repeat(limits.imageUserBytes + 1),
      'ü'.repeat(limits.imageUserBytes / 2 + 1),
      'u'.repeat(3 << 20),
    ]) {
      expect(() => parseImageConfig(config(user)))
        .to.throw(/User/)
        .with.property('code', 'ResourceExhausted');
    }
  });

  it('refuses damaged configs', () => {
    for (const wrong of [
      {},
      { rootfs: { type: 'x' } },
      { rootfs: { type: 'layers', diff_ids: ['../x'] } },
      { rootfs: { type: 'layers', diff_ids: 7 } },
      { rootfs: { type: 'layers', diff_ids: [] }, config: { Env: [1] } },
      { rootfs: { type: 'layers', diff_ids: [] }, config: { User: 0 } },
    ]) {
      expect(() => parseImageConfig(json(wrong)), JSON.stringify(wrong))
        .to.throw()
        .with.property('code', 'InvalidArgument');
    }
  });

  it('reads null inside of lists and maps, and names in any case, as Go does', () => {
    const read = parseImageConfig(
      json({
        Architecture: 'x86_64',
        OS: 'Linux',
        RootFS: { Type: '', Diff_IDs: [D] },
        CONFIG: { env: ['A=b', null], cmd: [null], labels: { a: null, A: 'B' }, volumes: { '/v': null } },
      }),
    );
    expect(read).to.deep.include({
      architecture: 'amd64',
      os: 'linux',
      env: ['A=b', ''],
      cmd: [''],
      volumes: ['/v'],
      diffIds: [D],
    });
    expect({ ...read.labels }).to.deep.equal({ a: '', A: 'B' });
    const last = json({ rootfs: { diff_ids: [] }, config: { User: 'a', user: 'b' } });
    expect(parseImageConfig(last).user).to.equal('b');
  });
});

describeEmptiness({
  name: 'image configs',
  notation: 'json',
  samples: [
    {
      architecture: 'arm64',
      os: 'windows',
      rootfs: { type: 'layers', diff_ids: [D] },
      history: [{ created_by: 'x', empty_layer: false }],
      created: '2026-01-01T00:00:00Z',
      author: 'a',
      config: {
        User: '1000',
        Env: ['A=b'],
        Entrypoint: ['/x'],
        Cmd: ['y'],
        Volumes: { '/v': {} },
        WorkingDir: '/w',
        Labels: { a: 'b' },
        StopSignal: 'SIGQUIT',
        ExposedPorts: { '80/tcp': {} },
      },
    },
  ],
  names: ['config.Labels', 'config.Volumes', 'config.ExposedPorts'],
  read: (document) => parseImageConfig(json(document)),
  keys: {
    architecture: 'unset',
    os: 'unset',
    rootfs: 'needed',
    'rootfs.type': 'ignored',
    'rootfs.diff_ids': 'unset',
    history: 'ignored',
    'history[].created_by': 'ignored',
    'history[].empty_layer': 'ignored',
    created: 'ignored',
    author: 'ignored',
    config: 'unset',
    'config.User': 'unset',
    'config.Env': 'unset',
    'config.Entrypoint': 'unset',
    'config.Cmd': 'unset',
    'config.Volumes': 'unset',
    'config.Volumes.*': { absent: 'unset', empty: 'own', why: 'the name is what counts: the volume is there' },
    'config.WorkingDir': 'unset',
    'config.Labels': 'unset',
    'config.Labels.*': { absent: 'unset', empty: 'own', why: 'a label without a value is a label' },
    'config.StopSignal': 'unset',
    'config.ExposedPorts': 'unset',
    'config.ExposedPorts.*': { absent: 'unset', empty: 'own', why: 'the name is what counts: the port is there' },
  },
});
