import { assert } from 'chai';
import { cpuProfile } from './cpu-profile.ts';
import { refusal } from './fake-server.ts';

describe('cri/cpu-profile', () => {
  it('is what developer tools read, of the time that was asked for or until nobody wants it', async () => {
    const gone = new AbortController();
    const taken = cpuProfile(60_000, gone.signal);
    const { message } = await refusal(cpuProfile(1, new AbortController().signal));
    assert.include(message, 'being taken already');
    gone.abort();
    const profile = JSON.parse(await taken) as { nodes: unknown[]; startTime: number; endTime: number };
    assert.isNotEmpty(profile.nodes);
    assert.isAbove(profile.endTime, profile.startTime);
    // The next one may be taken.
    await cpuProfile(1, new AbortController().signal);
  });
});
