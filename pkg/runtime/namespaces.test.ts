import { assert } from 'chai';
import { pinArguments, pinError } from './namespaces.ts';
import type { NamespaceKind, PinRequest } from '../ports/runtime.ts';

const paths = (...kinds: NamespaceKind[]): Map<NamespaceKind, string> =>
  new Map(kinds.map((kind) => [kind, `/ns/${kind}`]));
const request = (more: Partial<PinRequest>): PinRequest => ({
  kinds: [],
  sysctls: new Map(),
  hostname: '',
  idMap: null,
  ...more,
});

describe('pinArguments', () => {
  it('keeps each key and each value a word of its own (CVE-2022-0811)', () => {
    const sysctls = new Map([
      ['kernel.shm_rmid_forced', '1+kernel.core_pattern=|/x #'],
      ['net.ipv4.ping_group_range', '0 100'],
    ]);
    assert.deepEqual(pinArguments(paths('net', 'ipc'), request({ sysctls })), [
      '--net',
      '/ns/net',
      '--ipc',
      '/ns/ipc',
      '--loopback',
      '--sysctl',
      'kernel.shm_rmid_forced',
      '1+kernel.core_pattern=|/x #',
      '--sysctl',
      'net.ipv4.ping_group_range',
      '0 100',
    ]);
  });

  it('gives a hostname only to a namespace of our own', () => {
    assert.deepEqual(pinArguments(paths('uts'), request({ hostname: 'h' })), ['--uts', '/ns/uts', '--hostname', 'h']);
    assert.deepEqual(pinArguments(paths('net'), request({ hostname: 'h' })), ['--net', '/ns/net', '--loopback']);
  });

  it('writes maps as inside, outside, count', () => {
    const idMap = {
      uids: [
        { containerId: 0, hostId: 1000, size: 10 },
        { containerId: 10, hostId: 5000, size: 1 },
      ],
      gids: [{ containerId: 0, hostId: 2000, size: 11 }],
    };
    assert.deepEqual(pinArguments(paths('user'), request({ idMap })), [
      '--user',
      '/ns/user',
      '--uid-map',
      '0',
      '1000',
      '10',
      '--uid-map',
      '10',
      '5000',
      '1',
      '--gid-map',
      '0',
      '2000',
      '11',
    ]);
  });
});

describe('pinError', () => {
  it("tells the caller's fault from the node's", () => {
    assert.equal(pinError(1, 'pinns: sysctl net/ipv4/x = 1: No such file or directory\n').code, 'InvalidArgument');
    assert.equal(pinError(2, 'pinns: not a sysctl name: ../x\n').code, 'InvalidArgument');
    assert.equal(pinError(1, 'pinns: unshare: No space left on device\n').code, 'ResourceExhausted');
    assert.equal(pinError(1, 'pinns: pin net namespace at /x: Permission denied\n').code, 'Internal');
    assert.include(pinError(137, '').message, 'exit code 137');
  });
});
