/** Exec, attach, logs and port-forward through the API server, as @kubernetes/client-node and kubectl ask for them. */
import { Attach, PortForward } from '@kubernetes/client-node';
import { assert } from 'chai';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { waitFor } from '../e2e/cri-client.ts';
import { Command } from '../e2e/terminal.ts';
import { ground } from './shared.ts';
import { Tenant, Text } from './tenant.ts';

const POD = 'streams';

describe('pods under a kubelet: streams', () => {
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'streams', images.box);
    const box = tenant.box('echo first; httpd -p 8080 -h /www; while read -r line; do echo "read $line"; done', {
      stdin: true,
    });
    await tenant.ready({ name: POD, spec: { containers: [box] } });
  });
  after(async () => await tenant.leave());

  it('keeps output, errors and exit code of a command apart', async () => {
    const result = await tenant.exec(POD, 'echo out; echo err >&2; exit 42');
    assert.deepEqual(result, { out: 'out\n', err: 'err\n', code: 42 });
  });

  it('gives a megabyte back as it was', async () => {
    const { out, code } = await tenant.exec(
      POD,
      'i=0; while [ $i -lt 16384 ]; do printf "%063d\\n" $i; i=$((i+1)); done',
    );
    assert.equal(code, 0);
    assert.lengthOf(out, 1 << 20);
    assert.isTrue(out.endsWith(`${String(16_383).padStart(63, '0')}\n`));
  });

  it('gives kubectl exec -it a terminal, with its size', async () => {
    const line = tenant.kubectlLine('exec', '-it', POD, '--', 'sh');
    const shell = Command.onTerminal(line, { size: [33, 99] });
    shell.write('stty size; tty; exit 5\n');
    await shell.says(/33 99/);
    await shell.says(/\/dev\/pts\//);
    assert.equal(await shell.end(), 5);
  });

  it('attaches to what a container reads and says', async () => {
    const out = new Text();
    const input = new PassThrough();
    const socket = await new Attach(tenant.config).attach(tenant.namespace, POD, 'box', out, null, input, false);
    input.write('hello\n');
    await waitFor(
      () => out.text,
      (text) => text.includes('read hello'),
      'the container to answer',
    );
    socket.close();
    assert.include(await tenant.logs(POD), 'read hello');
  });

  it('follows a log, and shows its end, its past and its times', async () => {
    const followed = Command.inPipe(tenant.kubectlLine('logs', '--follow', POD));
    await followed.says(/first/);
    const input = new PassThrough();
    const socket = await new Attach(tenant.config).attach(tenant.namespace, POD, 'box', new Text(), null, input, false);
    input.write('later\n');
    await followed.says(/read later/);
    followed.process.kill('SIGTERM');
    await followed.end();
    socket.close();
    assert.equal(await tenant.logs(POD, { tailLines: 1 }), 'read later\n');
    assert.match(
      await tenant.kubectl('logs', POD, '--timestamps', '--tail=1'),
      /^\d{4}-\d\d-\d\dT[\d:.]+Z read later\n$/,
    );
  });

  it('forwards a port', async () => {
    const [out, input] = [new Text(), new PassThrough()];
    const forward = new PortForward(tenant.config);
    const socket = await forward.portForward(tenant.namespace, POD, [8080], out, new Text(), input);
    input.write('GET / HTTP/1.0\r\n\r\n');
    await waitFor(
      () => out.text,
      (text) => /200 OK[^]*\r\n\r\n1/.test(text),
      'the answer',
    );
    if (typeof socket !== 'function') socket.close();
  });

  it('forwards a port for kubectl, many times at once', async () => {
    const forward = Command.inPipe(tenant.kubectlLine('port-forward', `pod/${POD}`, ':8080'));
    const [, port] = await forward.says(/Forwarding from 127\.0\.0\.1:(\d+)/);
    const answers = await Promise.all(
      Array.from({ length: 20 }, async () => (await fetch(`http://127.0.0.1:${port}/`)).text()),
    );
    assert.deepEqual(new Set(answers), new Set(['1']));
    const ended = once(forward.process, 'close');
    forward.process.kill('SIGINT');
    await ended;
  });

  it('copies files both ways with kubectl cp', async () => {
    const directory = await mkdtemp(join(ground().cluster.directory, 'cp-'));
    const content = randomBytes(300_000);
    await writeFile(join(directory, 'there'), content);
    await tenant.kubectl('cp', join(directory, 'there'), `${POD}:/tmp/there`);
    await tenant.kubectl('cp', `${POD}:/tmp/there`, join(directory, 'back'));
    assert.isTrue(content.equals(await readFile(join(directory, 'back'))));
    await rm(directory, { recursive: true });
  });
});
