import { assert } from 'chai';
import type { Rpcs } from '../pkg/cri-api/types.ts';
import { limits } from '../pkg/base/limits.ts';
import { methods } from './codec.ts';
import { type Line, RPCS } from './rpcs.ts';

const lines = Object.entries(RPCS) as readonly (readonly [keyof Rpcs, Line<keyof Rpcs>])[];

describe('cri/rpcs', () => {
  it('has the RPCs of the .proto files, and no other', () => {
    assert.sameMembers(Object.keys(RPCS), Object.keys(methods));
  });

  it('is quiet about what changes nothing', () => {
    for (const [key, { loudness }] of lines)
      if (/^(list|stream)|(Status|Stats|Config)$/.test(key) && key !== 'updateRuntimeConfig')
        assert.equal(loudness, 'debug', key);
  });

  it('never lets a deadline of its own cut off what changes something, or what is sent piece by piece', () => {
    for (const [key, { loudness, deadlineMs, answer }] of lines)
      if (loudness === 'info' || answer === 'held' || methods[key].streams) assert.equal(deadlineMs, 'callers', key);
  });

  it('warns of slowness only where it means something', () => {
    for (const [key, { patience }] of lines) if (methods[key].streams) assert.equal(patience, 'asked', key);
  });

  it('lets the client give up before the work does, so that its retry finds it', () => {
    assert.isBelow(RPCS.runPodSandbox.clientMs, limits.podRunMs);
    assert.isBelow(RPCS.createContainer.clientMs, limits.containerCreateMs);
    assert.isBelow(RPCS.stopPodSandbox.clientMs, limits.podStopMs);
  });
});
