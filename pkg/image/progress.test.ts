import { expect } from 'chai';
import { parseChainId, parseDigest } from '../base/ids.ts';
import { silent } from '../base/op.ts';
import { NO_TIME, PullTracker } from './progress.ts';

const layer = (fill: string, size: bigint) => {
  const digest = parseDigest(`sha256:${fill.repeat(64)}`);
  return { digest, diffId: digest, chainId: parseChainId(digest), mediaType: '', sizeBytes: size };
};

describe('image/progress', () => {
  it('tells stages as they begin, counts bytes, and how long each stage took', () => {
    let now = 1000;
    const told: string[] = [];
    const logged: unknown[] = [];
    const log = { ...silent, debug: (message: string, fields: unknown) => void logged.push([message, fields]) };
    const track = new PullTracker({ log, stage: (what) => void told.push(what) }, 'busybox', () => now);
    track.stage('resolving');
    now += 10;
    track.plan([layer('a', 100n), layer('b', 50n)]);
    track.stage('downloading');
    track.layer(0, 'downloading', 40n);
    track.layer(0, 'downloading', 60n);
    now += 100;
    expect(track.fields()).to.deep.equal({
      stage: 'downloading',
      bytes: 60n,
      totalBytes: 150n,
      layers: 0,
      totalLayers: 2,
      ms: 110,
    });
    track.layer(0, 'done');
    track.layer(1, 'unpacking');
    expect(track.snapshot()).to.deep.include({ reference: 'busybox', stage: 'unpacking', startedAt: 1_000_000_000n });
    now += 1000;
    track.stage('committing');
    now += 1;
    expect(track.times()).to.deep.equal({
      ...NO_TIME,
      resolving: 10,
      downloading: 100,
      unpacking: 1000,
      committing: 1,
    });
    expect(told).to.deep.equal([
      'image: resolving',
      'image: downloading',
      `image: layer sha256:${'a'.repeat(64)} downloading`,
      `image: layer sha256:${'a'.repeat(64)} done`,
      `image: layer sha256:${'b'.repeat(64)} unpacking`,
      'image: committing',
    ]);
    expect(logged[0]).to.deep.equal(['pull', { stage: 'resolving' }]);
    track.layer(7, 'done');
  });
});
