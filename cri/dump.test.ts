import { assert } from 'chai';
import { dumped } from './dump.ts';

describe('a request in the log', () => {
  it('is what was set, with exact numbers', () => {
    assert.equal(
      dumped({
        podSandboxId: 'p',
        config: {
          metadata: { name: 'app', attempt: 0 },
          command: ['sh', '-c', ''],
          mounts: [],
          linux: { resources: { memoryLimitInBytes: 9_223_372_036_854_775_807n, cpuShares: 0n }, securityContext: {} },
          tty: false,
        },
      }),
      '{"podSandboxId":"p","config":{"metadata":{"name":"app"},"command":["sh","-c",null],' +
        '"linux":{"resources":{"memoryLimitInBytes":"9223372036854775807"}}}}',
    );
    assert.equal(dumped({}), '{}');
  });

  it('shows no credential, no value of a variable, and none of an annotation', () => {
    const said = dumped({
      auth: { username: 'core', password: 'hunter2', identityToken: 'hunter2' },
      image: { image: 'reg.example/a', annotations: { 'example.com/token': 'hunter2' } },
      config: { envs: [{ key: 'TOKEN', value: 'hunter2' }], annotations: { a: 'hunter2' } },
    });
    assert.notInclude(said, 'hunter2');
    assert.equal(
      said,
      '{"auth":["username","password","identityToken"],"image":{"image":"reg.example/a",' +
        '"annotations":["example.com/token"]},"config":{"envs":["TOKEN"],"annotations":["a"]}}',
    );
  });
});
