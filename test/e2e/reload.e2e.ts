/** SIGHUP: what a running daemon takes over, part by part; running pods keep what they have, new ones get the new. */
import { assert } from 'chai';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerConfig, Input } from '../../pkg/cri-api/types.ts';
import { CriError, type Pod, waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';

const SLEEP: Input<ContainerConfig> = { command: ['sleep', '100000'] };
/** Everything is allowed but to make a directory. */
const NO_MKDIR = {
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }],
};
/** That of the first process. */
const UMASK = 'grep Umask /proc/1/status | cut -f2';
const ALL = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [] };

describe('a reload of the configuration', function () {
  this.timeout(120_000);
  let node: TestNode;

  before(async () => {
    // crun, so that the node has both runtimes; which is the default, and how much is logged, is for the files to say.
    node = await TestNode.boot({
      runtime: 'crun',
      flags: ['--default-runtime', '', '--log-level', ''],
      env: { CONTAINERS_REGISTRIES_CONF: '/none/registries.conf' },
    });
  });
  afterEach(() => node.clear());
  after(() => node.close());

  /** Writes the drop-in of this suite, asks for a reload, and gives what the daemon says until it is done. */
  async function reload(text: string, expected: 'completed' | 'Unable' = 'completed'): Promise<string> {
    const from = node.log.length;
    await writeFile(join(node.dir, 'none/50-test.conf'), text);
    process.kill(node.pid, 'SIGHUP');
    const done = new RegExp(`Configuration reload completed|Unable to reload configuration`);
    const said = await waitFor(
      () => node.log.slice(from),
      (log) => done.test(log) && log.endsWith('\n'),
      'the end of the reload',
    );
    assert.include(said, expected);
    return said;
  }
  const path = (name: string): string => join(node.dir, name);
  async function json(name: string, content: unknown): Promise<string> {
    await writeFile(path(name), JSON.stringify(content));
    return path(name);
  }
  /** Which runtime has the state of a container. */
  function runtimeOf(id: string, handlers: readonly string[] = ['crun', 'runc']): string {
    const having = handlers.filter((each) => existsSync(path(`run/runtimes/${each}/${id}`)));
    assert.lengthOf(having, 1, id);
    return having[0] ?? '';
  }
  async function sh(id: string, script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await node.cri.exec(id, ['sh', '-c', script]);
    return exitCode === 0 ? stdout.trim() : `exit ${exitCode}: ${stderr.trim()}`;
  }
  async function refusal(work: Promise<unknown>): Promise<string> {
    return await work.then(
      () => assert.fail('was not refused'),
      (error: unknown) => {
        assert.instanceOf(error, CriError);
        return (error as Error).message;
      },
    );
  }

  it('changes the level of the log, and says so whichever way', async () => {
    assert.match(
      await reload('[crio.runtime]\nlog_level = "debug"\n'),
      /Set config log_level to \\"debug\\".*before="?\\?"?\\?"info/,
    );
    await node.cri.rpc.version({});
    await waitFor(
      () => node.log,
      (log) => /level=debug.*rpc=Version/.test(log),
      'a line at debug level',
    );
    assert.match(await reload('[crio.runtime]\nlog_level = "info"\n'), /Set config log_level to \\"info\\"/);
    const from = node.log.length;
    await node.cri.rpc.version({});
    assert.notMatch(node.log.slice(from), /rpc=Version/);
  });

  it('changes the default runtime for new pods; those that are there keep theirs, over a restart', async () => {
    const old = await node.cri.runPod();
    const first = await node.cri.runContainer(old, IMAGE, SLEEP);
    assert.equal(runtimeOf(first), 'crun');
    assert.include(await reload('[crio.runtime]\ndefault_runtime = "runc"\n'), 'Set config default_runtime to');
    const young = await node.cri.runPod();
    const second = await node.cri.runContainer(young, IMAGE, SLEEP);
    const beside = await node.cri.runContainer(old, IMAGE, SLEEP);
    assert.deepEqual(
      [second, beside].map((id) => runtimeOf(id)),
      ['runc', 'crun'],
    );
    for (const restarted of [false, true]) {
      if (restarted) await node.restart();
      for (const id of [first, second, beside]) assert.equal(await sh(id, 'echo here'), 'here');
    }
    const { runtimeHandlers } = await node.cri.rpc.status({});
    assert.includeMembers(
      runtimeHandlers.map(({ name }) => name),
      ['', 'crun', 'runc'],
    );
    await node.cri.rpc.stopContainer({ containerId: first, timeout: 0n });
    await node.cri.rpc.removeContainer({ containerId: first });
  });

  it('adds, changes and removes handlers, whole', async () => {
    const table = (more = ''): string =>
      `[crio.runtime.runtimes.extra]\nruntime_path = "/usr/sbin/runc"\nallowed_annotations = [${more}]\n`;
    assert.match(await reload(table()), /Set config runtimes\.extra to .*runc.*before=none/);
    const runPod = (): Promise<Pod> =>
      node.cri.runPod({ annotations: { 'umask.crio.io': '0077' } }, { handler: 'extra' });
    assert.equal(await sh(await node.cri.runContainer(await runPod(), IMAGE, SLEEP), UMASK), '0022');
    await reload(table('"umask.crio.io"'));
    const allowed = await runPod();
    const id = await node.cri.runContainer(allowed, IMAGE, SLEEP);
    assert.equal(await sh(id, UMASK), '0077');
    assert.equal(runtimeOf(id, ['crun', 'runc', 'extra']), 'extra');
    assert.match(await reload(''), /Set config runtimes\.extra to \\?"none/);
    assert.match(await refusal(node.cri.runPod({}, { handler: 'extra' })), /no runtime handler is called \\?"extra/);
    assert.equal(await sh(id, 'echo here'), 'here', 'its pod goes on');
    const next = await node.cri.runContainer(allowed, IMAGE, SLEEP);
    assert.equal(runtimeOf(next, ['crun', 'runc', 'extra']), 'extra', 'with later containers, too');
    await node.restart();
    assert.equal(await sh(next, 'echo here'), 'here', 'also when nobody knows the handler from the start');
  });

  it('keeps the handlers that it has when the new default cannot be used', async () => {
    const said = await reload('[crio.runtime]\ndefault_runtime = "kata"\n', 'Unable');
    assert.match(said, /none\/50-test\.conf:2:1: crio\.runtime\.default_runtime is .*kata/);
    await node.cri.runPod();
  });

  it('changes seccomp profiles: by name, and by content; a broken one is not taken', async () => {
    const profile = await json('profile.json', NO_MKDIR);
    const confined: Input<ContainerConfig> = {
      ...SLEEP,
      linux: { securityContext: { seccomp: { profileType: 'RuntimeDefault' } } },
    };
    const pod = await node.cri.runPod();
    const make = (): Promise<string> => node.cri.runContainer(pod, IMAGE, confined);
    const mkdirIn = (id: string): Promise<string> => sh(id, 'mkdir /tmp/x-$$ && echo made');
    const first = await make();
    const text = `[crio.runtime]\nseccomp_profile = "${profile}"\n`;
    assert.match(await reload(text), /Set config seccomp_profile to .*profile\.json/);
    assert.equal(await mkdirIn(first), 'made', 'a container that runs keeps its profile');
    assert.match(await mkdirIn(await make()), /Operation not permitted/);

    await json('profile.json', ALL);
    assert.match(await reload(text), /Set config seccomp_profile to .*as it is now/);
    assert.equal(await mkdirIn(await make()), 'made');

    await json('profile.json', { defaultAction: 'SCMP_ACT_WHATEVER' });
    const said = await reload(text, 'Unable');
    assert.match(
      said,
      /50-test\.conf:2:1: crio\.runtime\.seccomp_profile .*profile\.json cannot be used; mend the file/,
    );
    assert.equal(await mkdirIn(await make()), 'made', 'the old profile holds');
    await rm(profile);
    assert.match(await reload(text), /a seccomp profile is not there, the built-in one is used/);
    assert.equal(await sh(await make(), 'unshare -m true 2>/dev/null || echo no'), 'no');
  });

  it('changes the directories of CDI specs', async () => {
    const directory = path('cdi-new');
    await mkdir(directory);
    await json('cdi-new/acme.json', {
      cdiVersion: '0.6.0',
      kind: 'acme.example/gpu',
      devices: [{ name: 'one', containerEdits: { env: ['ACME=one'] } }],
    });
    const pod = await node.cri.runPod();
    const make = (): Promise<string> =>
      node.cri.runContainer(pod, IMAGE, { ...SLEEP, cdiDevices: [{ name: 'acme.example/gpu=one' }] });
    assert.include(await refusal(make()), 'acme.example/gpu=one');
    assert.match(await reload(`[crio.runtime]\ncdi_spec_dirs = ["${directory}"]\n`), /Set config cdi_spec_dirs to/);
    assert.equal(await sh(await make(), 'echo $ACME'), 'one');
  });

  it('changes which images are pinned, the pause image among them', async () => {
    const pinned = async (): Promise<boolean | undefined> =>
      (await node.cri.rpc.imageStatus({ image: { image: IMAGE } })).image?.pinned;
    assert.isFalse(await pinned());
    for (const line of ['pinned_images = ["*busybox*"]', `pause_image = "${IMAGE}"`]) {
      await reload(`[crio.image]\n${line}\n`);
      assert.isTrue(await pinned(), line);
      await reload('');
      assert.isFalse(await pinned());
    }
  });

  it('changes the AppArmor profile, where there is AppArmor', async () => {
    assert.match(await reload('[crio.runtime]\napparmor_profile = "unconfined"\n'), /Set config apparmor_profile to/);
  });

  it('changes who must have signed images, and does not take a policy that is broken', async () => {
    const policy = path('policy.json');
    const text = `[crio.image]\nsignature_policy = "${policy}"\n`;
    await writeFile(policy, '{"default": [{"type": "reject"}]}');
    const pod = await node.cri.runPod();
    await node.cri.createContainer(pod, IMAGE, SLEEP);
    assert.match(await reload(text), /Set config signature policy to .*policy\.json sha256:/);
    assert.match(await refusal(node.cri.createContainer(pod, IMAGE, SLEEP)), /SignatureValidationFailed/);
    await reload('');
    await writeFile(policy, '{"default": [');
    assert.match(await reload(text, 'Unable'), /policy\.json/);
    await node.cri.createContainer(pod, IMAGE, SLEEP);
  });

  it('reads registries.conf, and says what is wrong with it', async () => {
    const conf = path('registries.conf');
    const text = `[crio.image]\nregistries_conf = "${conf}"\n`;
    await writeFile(conf, '[[registry]]\nlocation = "blocked.example"\nblocked = true\n');
    assert.match(await reload(text), /Set config registries to .*registries\.conf .*sha256:/);
    const pull = (): Promise<unknown> => node.cri.pull('blocked.example/app:1');
    assert.match(await refusal(pull()), /blocked/);
    await writeFile(conf, '[[registry]]\nlocation = 5\n');
    assert.match(await reload(text, 'Unable'), /registries\.conf/);
    assert.match(await refusal(pull()), /blocked/, 'what was read before holds');
  });

  it('says at each reload what waits for a restart, until it is in force', async () => {
    const waits = /a change of the configuration waits for a restart.*key=crio\.runtime\.default_env/;
    const text = '[crio.runtime]\ndefault_env = ["FRESH=1"]\n';
    assert.match(await reload(text), waits);
    assert.match(await reload(`${text}log_level = "debug"\n`), waits, 'the second one has not forgotten it');
    const pod: Pod = await node.cri.runPod();
    assert.equal(await sh(await node.cri.runContainer(pod, IMAGE, SLEEP), 'echo "[$FRESH]"'), '[]');
    await node.restart();
    assert.equal(await sh(await node.cri.runContainer(pod, IMAGE, SLEEP), 'echo "[$FRESH]"'), '[1]');
    assert.notMatch(await reload(text), waits);
  });

  it('keeps everything when a file is broken, and goes on with the next one', async () => {
    await reload('[crio.image]\npinned_images = ["*busybox*"]\n');
    const said = await reload('[crio.image]\npinned_images = 5\n', 'Unable');
    assert.match(
      said,
      /all of the old one stays in force.*50-test\.conf:2:1: crio\.image\.pinned_images wants an array/,
    );
    assert.isTrue((await node.cri.rpc.imageStatus({ image: { image: IMAGE } })).image?.pinned);
    await reload('');
  });
});
