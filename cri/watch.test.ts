import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { methods } from './codec.ts';
import { failure, ground } from './fake-server.ts';
import { type CallListener, type CallWatch, type WatchedCall, watchers } from './watch.ts';

/** Keeps what it hears, a line each. */
function keeping(lines: string[], name = ''): CallWatch {
  return ({ method, ids, metadata }: WatchedCall): CallListener => {
    const said = (what: string): void => void lines.push(`${name}${method.name} ${what}`);
    said(`begins ${JSON.stringify(ids)} ${metadata.get('traceparent').join()}`);
    return {
      stage: (what) => said(`at ${what}`),
      ended: (why) => said(why === undefined ? 'ok' : `${why.code} at ${why.stage}`),
    };
  };
}

describe('cri/watch', () => {
  const at = ground();

  it('hears of calls of each kind, of their stages, and of how they ended', async () => {
    const lines: string[] = [];
    await at.start(
      {
        podSandboxStatus: (op) => {
          op.stage('look');
          throw new RuntimeError('NotFound', 'none');
        },
        execSync: () => ({ stdout: new Uint8Array(), stderr: new Uint8Array(), exitCode: 0 }),
        async *streamImages() {},
      },
      { watch: keeping(lines) },
    );
    const cri = at.client();
    await failure(cri.podSandboxStatus({ podSandboxId: 'x' }));
    await cri.execSync({ containerId: 'c' });
    for await (const each of cri.streamImages()) assert.fail(JSON.stringify(each));
    assert.deepEqual(lines, [
      'PodSandboxStatus begins {"sandbox":"x"} ',
      'PodSandboxStatus at look',
      'PodSandboxStatus NotFound at look',
      'ExecSync begins {"container":"c"} ',
      'ExecSync ok',
      'StreamImages begins {} ',
      'StreamImages ok',
    ]);
  });

  it('hears what clients send beside the request', async () => {
    const lines: string[] = [];
    await at.start(
      {
        async runPodSandbox(op) {
          op.stage('cni add');
          throw new RuntimeError('DeadlineExceeded', 'late');
        },
      },
      { watch: keeping(lines) },
    );
    const grpc = new Client(`unix:${at.socket}`, credentials.createInsecure());
    at.open.push(grpc);
    const metadata = new Metadata();
    metadata.set('traceparent', '00-x');
    const same = (bytes: Buffer): Buffer => bytes;
    await new Promise((over) =>
      grpc.makeUnaryRequest(methods.runPodSandbox.path, same, same, Buffer.alloc(0), metadata, over),
    );
    assert.deepEqual(lines, [
      'RunPodSandbox begins {} 00-x',
      'RunPodSandbox at cni add',
      'RunPodSandbox DeadlineExceeded at cni add',
    ]);
  });

  it('may be several, of which each may do without a call', () => {
    const lines: string[] = [];
    const call = { method: methods.version as WatchedCall['method'], id: '', ids: {}, metadata: { get: () => [] } };
    assert.isUndefined(watchers(undefined, undefined));
    const both = watchers(keeping(lines, 'a '), () => undefined, keeping(lines, 'b '))?.(call);
    both?.stage('x');
    both?.ended(undefined);
    assert.deepEqual(
      lines.filter((line) => !line.includes('begins')),
      ['a Version at x', 'b Version at x', 'a Version ok', 'b Version ok'],
    );
    assert.isUndefined(
      watchers(
        () => undefined,
        () => undefined,
      )?.(call),
    );
  });
});
