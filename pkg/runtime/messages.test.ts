import { assert } from 'chai';
import { isCode } from '../base/errors.ts';
import { codeOfText, errorText, featuresOf, parseSyncMessage, shellCodeOfText } from './messages.ts';

describe('errorText', () => {
  const cases: readonly (readonly [name: string, output: string, wanted: string])[] = [
    [
      'runc on stderr',
      'time="2026-11-22T08:55:28Z" level=error msg="exec failed: exec: \\"nosuch\\": executable ' +
        'file not found in $PATH"\n',
      'exec failed: exec: "nosuch": executable file not found in $PATH',
    ],
    ['runc, warnings first', 'time="x" level=warning msg="cgroup v1"\ntime="x" level=error msg=boom\n', 'boom'],
    [
      'JSON log',
      '{"level":"info","msg":"hi"}\n{"level":"error","msg":"container does not exist","time":"x"}\n',
      'container does not exist',
    ],
    [
      'JSON entries without line ends',
      '{"msg":"applyCaps() failed","level":"error"}{"msg":"waiting for sandbox: EOF","level":"error","time":"x"}',
      'applyCaps() failed; waiting for sandbox: EOF',
    ],
    ['the same error twice', 'time="x" level=error msg=boom\ntime="y" level=error msg=boom\n', 'boom'],
    [
      'crun on stderr',
      'error opening file `/run/crun/x/status`: No such file or directory\n',
      'error opening file `/run/crun/x/status`: No such file or directory',
    ],
    ['several plain lines', 'a\n\nb\nc\n', 'a; b; c'],
    ['nothing', '\n \n', ''],
    ['control characters', 'bad\u001b[2J\u0000thing', 'bad [2J thing'],
    ['a logfmt line that lies about its quotes', 'level=error msg="open', 'level=error msg="open'],
  ];
  for (const [name, output, wanted] of cases) it(name, () => assert.strictEqual(errorText(output), wanted));

  it('keeps the end of what is long', () => {
    const text = errorText(`${'x'.repeat(100_000)}the cause`);
    assert.isBelow(text.length, 2100);
    assert.match(text, /the cause$/);
  });
});

describe('codeOfText', () => {
  const cases: readonly (readonly [string, string])[] = [
    [
      'exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH',
      'InvalidArgument',
    ],
    ['executable file `nosuch` not found in $PATH: No such file or directory', 'InvalidArgument'],
    ['exec failed: unable to start container process: exec: "/dev/null": permission denied', 'InvalidArgument'],
    ['open executable: Permission denied', 'InvalidArgument'],
    ['open executable: Operation not permitted', 'InvalidArgument'],
    ['chdir to cwd ("/nodir") set in config.json failed: no such file or directory', 'InvalidArgument'],
    [
      'executing command "true" in sandbox: failed to find initial working directory ' +
        '"/no/such/dir": no such file or directory',
      'InvalidArgument',
    ],
    ['chdir `/nodir`: No such file or directory', 'InvalidArgument'],
    ['mkdir /sys/fs/cgroup/x: no space left on device', 'ResourceExhausted'],
    ['something else', 'Internal'],
  ];
  for (const [text, code] of cases) it(text, () => assert.strictEqual(codeOfText(text), code));

  it('tells a program that is not there from one that cannot be executed, as a shell does', () => {
    assert.deepEqual(
      cases.map(([text]) => shellCodeOfText(text)),
      [127, 127, 126, 126, 126, 126, 126, 126, undefined, undefined],
    );
    assert.strictEqual(
      shellCodeOfText('exec: "/no/such/program": stat /no/such/program: no such file or directory'),
      127,
    );
    assert.strictEqual(shellCodeOfText('exec /bin/data: exec format error'), 126);
  });
});

describe('parseSyncMessage', () => {
  it('reads both versions of the protocol', () => {
    assert.deepEqual(parseSyncMessage('{"pid": 42}'), { kind: 'pid', pid: 42 });
    assert.deepEqual(parseSyncMessage('{"data": 42}'), { kind: 'pid', pid: 42 });
    assert.deepEqual(parseSyncMessage('{"pid": -1, "message": "no \\"such\\" thing\\n"}'), {
      kind: 'failed',
      message: 'no "such" thing\n',
    });
    assert.deepEqual(parseSyncMessage('{"pid": -1}'), { kind: 'failed', message: '' });
  });

  for (const wrong of ['', 'pid 42', '{}', '{"pid":"42"}', '{"pid":1.5}', '[42]', 'null']) {
    it(`refuses ${JSON.stringify(wrong)}`, () => {
      try {
        parseSyncMessage(wrong);
      } catch (error) {
        assert.isTrue(isCode(error, 'Internal'));
        return;
      }
      assert.fail('it was taken');
    });
  }
});

describe('featuresOf', () => {
  const answer = (stdout: string, exitCode = 0, stderr = ''): { exitCode: number; stdout: Buffer; stderr: Buffer } => ({
    exitCode,
    stdout: Buffer.from(stdout),
    stderr: Buffer.from(stderr),
  });

  it('believes `features`', () => {
    const document = JSON.stringify({
      ociVersionMin: '1.0.0',
      ociVersionMax: '1.0.2-dev',
      mountOptions: ['ro', 'rro'],
      linux: {
        namespaces: ['pid', 'user'],
        capabilities: ['CAP_CHOWN', 'CAP_KILL'],
        seccomp: { enabled: true },
        apparmor: { enabled: true },
        mountExtensions: { idmap: { enabled: false } },
      },
    });
    const { vulnerable, ...runc } = featuresOf(
      '/usr/sbin/runc',
      answer('runc version 1.1.5+ds1\ncommit: x\nspec: 1.0.2-dev\n'),
      answer(document),
    );
    assert.include(vulnerable, 'CVE-2025-31133');
    assert.deepEqual(runc, {
      kind: 'runc',
      version: '1.1.5+ds1',
      ociVersion: '1.0.2',
      recursiveReadOnlyMounts: true,
      idmappedMounts: false,
      userNamespaces: true,
      seccomp: true,
      apparmor: true,
      capabilities: ['CAP_CHOWN', 'CAP_KILL'],
      ownKernel: false,
      broken: undefined,
    });
  });

  it('goes by the version where there is no `features`', () => {
    const crun = featuresOf(
      '/usr/bin/crun',
      answer('crun version 1.8.1\ncommit: x\nspec: 1.0.0\n'),
      answer('', 1, 'unknown command features'),
    );
    assert.deepInclude(crun, {
      kind: 'crun',
      version: '1.8.1',
      ociVersion: '1.1.0',
      recursiveReadOnlyMounts: true,
      broken: undefined,
    });
    const runsc = featuresOf('/opt/runsc', answer('runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n'), answer('', 128));
    assert.include(runsc.capabilities ?? [], 'CAP_AUDIT_READ');
    assert.notInclude(runsc.capabilities ?? [], 'CAP_PERFMON', 'gVisor ends on a name that it does not know');
    assert.isFalse(crun.ownKernel);
    assert.deepInclude(runsc, {
      ownKernel: true,
      kind: 'runsc',
      ociVersion: '1.0.2',
      recursiveReadOnlyMounts: false,
      broken: undefined,
    });
    assert.deepInclude(featuresOf('/opt/old/crun', answer('crun version 0.17\n'), answer('', 1)), {
      ociVersion: '1.0.2',
      idmappedMounts: false,
    });
  });

  it('says why a binary is no runtime', () => {
    assert.match(featuresOf('/bin/x', answer('', 1, 'no libc'), undefined).broken ?? '', /--version failed: no libc/);
    assert.match(
      featuresOf('/bin/true', answer('hello'), undefined).broken ?? '',
      /does not answer like an OCI runtime/,
    );
    assert.match(featuresOf('/bin/none', undefined, undefined).broken ?? '', /cannot be run/);
    assert.strictEqual(featuresOf('/opt/kata-runtime', undefined, undefined).kind, 'kata-runtime');
  });
});
