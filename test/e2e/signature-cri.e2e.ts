/** Signature policies of namespaces and of the node, over CRI. */
import { expect } from 'chai';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { buildImage, busybox, push } from './images.ts';
import { attachment, body, SigningGround } from './signing.ts';
import type { Key } from './signing.ts';

describe('signatures, end to end: over CRI', function () {
  this.timeout(120_000);
  let g: SigningGround;
  let node: TestNode;
  let key: Key;
  let repository: string;
  before(async () => {
    g = await SigningGround.make();
    key = await g.makeKey();
    const app = await buildImage({
      directory: join(g.directory, 'app'),
      name: 'v1',
      layers: [{ files: await busybox() }],
      config: { Cmd: ['sleep', '1000'] },
    });
    repository = await g.publish(app);
    await push(app, `${repository}:unsigned`);
    await g.attach(repository, app.digest, [attachment(key, app.digest, `${repository}:v1`)]);
    const home = join(g.directory, 'home');
    await g.put(
      'home/.config/containers/policy.json',
      JSON.stringify({
        default: [{ type: 'insecureAcceptAnything' }],
        transports: { docker: { [`${g.registry.host}/forbidden`]: [{ type: 'reject' }] } },
      }),
    );
    await g.put('policies/prod.json', JSON.stringify(g.policyOf({ type: 'sigstoreSigned', keyPath: key.file })));
    await g.put(
      'policies/strict.json',
      JSON.stringify(g.policyOf({ type: 'sigstoreSigned', keyPath: (await g.makeKey()).file })),
    );
    await g.put(
      'policies/gpg.json',
      JSON.stringify(g.policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(g.directory, 'owner.gpg') })),
    );
    node = await TestNode.boot({
      flags: ['--signature-policy-dir', join(g.directory, 'policies')],
      env: { HOME: home, CONTAINERS_REGISTRIES_CONF: join(g.directory, 'registries.conf') },
    });
  });
  after(async () => {
    await node.close();
    await g.remove();
  });

  const pull = async (name: string, namespace: string): Promise<string> =>
    (
      await node.cri.rpc.pullImage({
        image: { image: name, userSpecifiedImage: name },
        sandboxConfig: { metadata: { name: 'x', uid: 'x', namespace, attempt: 0 } },
      })
    ).imageRef;
  /** The status' text; it must begin with what the kubelet looks for, and its code be UNKNOWN. */
  const refusal = async (work: Promise<unknown>): Promise<string> => {
    const error: unknown = await work.then(
      () => 'no error',
      (each: unknown) => each,
    );
    if (!(error instanceof CriError)) throw new Error(`want a CriError, got ${String(error)}`);
    expect([error.code, error.message.startsWith('SignatureValidationFailed: ')], error.message).to.deep.equal([
      2,
      true,
    ]);
    return error.message;
  };
  const create = async (id: string, name: string, namespace: string): Promise<void> => {
    const pod = await node.cri.runPod({
      metadata: { name: `p${g.next()}`, uid: `u${g.next()}`, namespace, attempt: 0 },
    });
    try {
      await node.cri.runContainer(pod, id, { image: { image: id, userSpecifiedImage: name } });
    } finally {
      await node.cri.removePod(pod.id);
    }
  };

  it('a pull is decided by the namespace’s policy, else by the node’s', async () => {
    await pull(`${repository}:v1`, 'prod');
    expect(await refusal(pull(`${repository}:unsigned`, 'prod'))).to.match(
      /is refused by .*\/policies\/prod\.json, docker "127\.0\.0\.1:\d+": sigstoreSigned: .*it calls the image/,
    );
    expect(await refusal(pull(`${repository}:v1`, 'strict'))).to.match(/strict\.json.*made by another key/);
    expect(await refusal(pull(`${repository}:v1`, 'gpg'))).to.match(
      /gpg\.json.*signedBy: there is no signature of that kind/,
    );
    await pull(`${repository}:unsigned`, 'default');
    expect(await refusal(pull(`${g.registry.host}/forbidden:v1`, 'default'))).to.match(
      /home\/\.config\/containers\/policy\.json, docker "127\.0\.0\.1:\d+\/forbidden": reject/,
    );
  });

  it('and a container again, for an image that is here, also after a restart and by gpgv', async () => {
    const id = await pull(`${repository}:unsigned`, 'default');
    await pull(`${repository}:v1`, 'default');
    for (const again of [false, true]) {
      if (again) await node.restart();
      await create(id, `${repository}:v1`, 'prod');
      await create(id, `${repository}:unsigned`, 'default');
      expect(await refusal(create(id, `${repository}:unsigned`, 'prod'))).to.match(/prod\.json.*it calls the image/);
      expect(await refusal(create(id, `${repository}:v1`, 'strict'))).to.match(/strict\.json.*made by another key/);
      expect(await refusal(create(id, '', 'prod'))).to.match(/user_specified_image/);
    }
    const manifest =
      (
        await fetch(`http://${repository.replace('/', '/v2/')}/manifests/v1`, {
          headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
        })
      ).headers.get('docker-content-digest') ?? '';
    const text = await g.put('crio-text', body('atomic', manifest, `${repository}:v1`));
    await g.gpg(
      '--local-user',
      g.gpgKeys.get('owner') ?? '',
      '--output',
      join(g.directory, 'crio-message'),
      '--sign',
      text,
    );
    await g.lay(repository, manifest, 1, await readFile(join(g.directory, 'crio-message')));
    await pull(`${repository}:v1`, 'gpg');
    await create(id, `${repository}:v1`, 'gpg');
    // Signatures went with the pull, and go with the image.
    expect(await readdir(join(node.dir, 'root/images/signatures'))).to.have.length(1);
    await node.cri.rpc.removeImage({ image: { image: id } });
    expect(await readdir(join(node.dir, 'root/images/signatures'))).to.deep.equal([]);
  });
});
