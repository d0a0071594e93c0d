/**
 * The packages as they are shipped: what is in them, what lintian says, that the same sources give the same bytes, that
 * what is installed runs, and that arm64's programs run under an emulator. In a machine with systemd dpkg installs them
 * (test/vm).
 */
import { assert } from 'chai';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { criClient } from './cri-client.ts';

const ROOT = new URL('../../', import.meta.url).pathname;
const VERSION = '7.8.9';
/** Where the libraries are that arm64's programs are linked with. */
const EMULATOR = ['qemu-aarch64', '-L', '/usr/aarch64-linux-gnu'] as const;

/** Every file and link, by the name that it has on a node; bundles have a digest in theirs. */
const CONTENTS = `
etc/berth/berth.conf
etc/cni/net.d/11-berth-ipv4-bridge.conflist
etc/default/berth
usr/bin/berth
usr/bin/crio
usr/bin/crio-status
usr/bin/pinns
usr/lib/berth/berth.cjs
usr/lib/berth/bin/addon.node
usr/lib/berth/bin/berth
usr/lib/berth/bin/conmon
usr/lib/berth/bin/env-exec
usr/lib/berth/bin/keep
usr/lib/berth/bin/node
usr/lib/berth/bin/pause
usr/lib/berth/bin/pinns
usr/lib/berth/lib/main-DIGEST.cjs
usr/lib/berth/lib/undici.cjs
usr/lib/berth/lib/winston.cjs
usr/lib/berth/lib/ws.cjs
usr/lib/berth/lib/yaml.cjs
usr/lib/berth/unpack-worker.cjs
usr/lib/modules-load.d/berth.conf
usr/lib/sysctl.d/60-berth.conf
usr/lib/systemd/system/berth.service
usr/lib/systemd/system/crio-wipe.service
usr/share/bash-completion/completions/berth
usr/share/bash-completion/completions/crio
usr/share/doc/berth/LICENSE.node
usr/share/doc/berth/changelog.gz
usr/share/doc/berth/copyright
usr/share/doc/berth/examples/crictl.yaml
usr/share/doc/berth/examples/grafana/berth.json
usr/share/doc/berth/examples/prometheus/berth.rules.yaml
usr/share/fish/vendor_completions.d/berth.fish
usr/share/lintian/overrides/berth
usr/share/man/man5/berth.conf.5.gz
usr/share/man/man8/berth-conmon.8.gz
usr/share/man/man8/berth.8.gz
usr/share/man/man8/crio-status.8.gz
usr/share/man/man8/crio.8.gz
usr/share/man/man8/pinns.8.gz
usr/share/zsh/vendor-completions/_berth`
  .trim()
  .split('\n');

function sh(command: string, ...args: readonly string[]): string {
  return execFileSync(command, args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

describe('packages', function () {
  this.timeout(1_200_000);
  const room = mkdtempSync('/tmp/berth-package-');
  const build = (out: string, ...more: readonly string[]): string => {
    sh(process.execPath, 'scripts/package.ts', '--out', join(room, out), '--version', VERSION, ...more);
    return join(room, out);
  };
  const deb = (arch: string): string => join(room, 'one', `berth_${VERSION}_${arch}.deb`);
  const installed = join(room, 'installed');
  const berth = join(installed, 'usr/bin/berth');

  before(() => {
    build('one', '--arch', 'amd64', '--arch', 'arm64');
    for (const arch of ['amd64', 'arm64'])
      sh('dpkg-deb', '-x', deb(arch), arch === 'amd64' ? installed : join(room, arch));
  });
  after(() => rmSync(room, { recursive: true }));

  it('have the same files for every machine, of root, and nothing of the machine that built them', () => {
    for (const arch of ['amd64', 'arm64']) {
      const lines = sh('dpkg-deb', '-c', deb(arch)).trim().split('\n');
      const names = lines
        .map((line) => /^(\S+) root\/root +\d+ \S+ \S+ \.\/(.*?)( -> .*)?$/.exec(line))
        .flatMap((match) => (match === null ? ['?'] : match[2]?.endsWith('/') || match[2] === '' ? [] : [match[2]]));
      assert.deepEqual(
        names.map((name) => name?.replace(/main-\w+\.cjs$/, 'main-DIGEST.cjs')).sort(),
        [...CONTENTS].sort(),
        arch,
      );
    }
    const build = spawnSync('grep', ['-rlF', ROOT, installed], { encoding: 'utf8' });
    assert.equal(build.stdout, '');
  });

  it('say which libraries, runtimes and helpers they need', () => {
    const field = (arch: string, name: string): string => sh('dpkg-deb', '-f', deb(arch), name).trim();
    for (const arch of ['amd64', 'arm64']) {
      assert.equal(field(arch, 'Architecture'), arch);
      assert.match(field(arch, 'Depends'), /^libc6 \(>= 2\.\d+\), .*libstdc\+\+6 \(>= .*crun \(>= 1\.8\) \| runc/);
      assert.include(field(arch, 'Recommends'), 'containernetworking-plugins | kubernetes-cni');
    }
  });

  it('pass lintian', () => {
    const { stdout, stderr } = spawnSync('lintian', ['--allow-root', deb('amd64')], { encoding: 'utf8' });
    assert.equal(stdout.replaceAll(/^N:.*\n/gm, ''), '', stderr);
  });

  it('are the same bytes when they are built again', () => {
    const again = build('two');
    for (const file of [`berth_${VERSION}_amd64.deb`, `berth-${VERSION}-amd64.tar.gz`])
      assert.isTrue(readFileSync(join(room, 'one', file)).equals(readFileSync(join(again, file))), file);
  });

  it('bring a daemon that serves, and commands that find it', async () => {
    const [state, socket] = [join(room, 'state'), join(room, 'berth.sock')];
    const flags = ['--config', '', '--config-dir', '', '--root', join(state, 'lib'), '--runroot', join(state, 'run')];
    const daemon = spawn(berth, [...flags, '--listen', socket, '--cgroup-manager', 'cgroupfs'], { stdio: 'ignore' });
    const ended = once(daemon, 'exit');
    const client = criClient(socket);
    try {
      await client.rpc.waitForReady(30_000);
      assert.include(sh(berth, '--listen', socket, 'version'), `daemon: berth ${VERSION}, CRI v1`);
      assert.equal(JSON.parse(sh(join(installed, 'usr/bin/crio'), 'version', '-j')).version, VERSION);
    } finally {
      client.rpc.close();
      daemon.kill('SIGTERM');
      await ended;
    }
    assert.include(sh(berth, 'wipe'), 'nothing to wipe');
  });

  it('have manual pages and completions that are read without a word', () => {
    const quiet = (command: string, ...args: readonly string[]): void => {
      const { status, stderr } = spawnSync(command, args, {
        encoding: 'utf8',
        env: { ...process.env, LC_ALL: 'C.UTF-8' },
      });
      assert.deepEqual([status, stderr], [0, ''], `${command} ${args.join(' ')}`);
    };
    const share = join(installed, 'usr/share');
    const pages = globSync(join(share, 'man/man*/*.gz'));
    assert.lengthOf(pages, 6);
    for (const page of pages) quiet('man', '--warnings=w', '--encoding=UTF-8', '--local-file', page);
    quiet('bash', '-n', join(share, 'bash-completion/completions/berth'));
    quiet('zsh', '-n', join(share, 'zsh/vendor-completions/_berth'));
    quiet('fish', '-n', join(share, 'fish/vendor_completions.d/berth.fish'));
  });

  it('have maintainer scripts that a shell can read, and refuse to go back', () => {
    const control = join(room, 'control');
    sh('dpkg-deb', '-e', deb('amd64'), control);
    for (const script of ['preinst', 'postinst', 'prerm', 'postrm']) sh('sh', '-n', join(control, script));
    const upgrade = (from: string, env: NodeJS.ProcessEnv = {}): { status: number | null; stderr: string } =>
      spawnSync('sh', [join(control, 'preinst'), 'upgrade', from, VERSION], {
        encoding: 'utf8',
        env: { ...process.env, ...env },
      });
    assert.deepInclude(upgrade('7.8.8'), { status: 0, stderr: '' });
    const refused = upgrade('7.8.10');
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /7\.8\.10 is installed.*drain the node.*BERTH_ALLOW_DOWNGRADE=yes/s);
    assert.equal(upgrade('7.8.10', { BERTH_ALLOW_DOWNGRADE: 'yes' }).status, 0);
  });

  it('as a tarball install to any prefix, run there, and go without a trace but configuration', () => {
    const [unpacked, root] = [join(room, 'tarball'), join(room, 'root')];
    sh('mkdir', unpacked);
    sh('tar', '-xzf', join(room, `one/berth-${VERSION}-amd64.tar.gz`), '-C', unpacked);
    const where = ['--destdir', root, '--prefix', '/opt/b'];
    const installer = join(unpacked, `berth-${VERSION}/install.sh`);
    // A second time replaces the first.
    for (const time of [1, 2]) assert.equal(sh(installer, ...where), '', `time ${time}`);
    assert.include(sh(join(root, 'opt/b/bin/berth'), 'version'), `berth ${VERSION}\n`);
    const unit = readFileSync(join(root, 'opt/b/lib/systemd/system/berth.service'), 'utf8');
    assert.include(unit, 'ExecStart=/opt/b/bin/berth ');
    assert.isTrue(existsSync(join(root, 'etc/berth/berth.conf')));
    assert.equal(sh(installer, '--uninstall', ...where), '');
    assert.deepEqual(globSync(join(root, 'opt/**/*')), []);
    assert.isTrue(existsSync(join(root, 'etc/berth/berth.conf')));
  });

  it('for arm64 have programs that run there: the monitor, pinns, Node with the addon', () => {
    const home = join(room, 'arm64/usr/lib/berth');
    const run = (...argv: readonly string[]): string => sh(EMULATOR[0], ...EMULATOR.slice(1), ...argv);
    assert.match(run(join(home, 'bin/conmon'), '--version'), /^conmon version 2\./);
    assert.include(run(join(home, 'bin/pinns'), '--version'), VERSION);
    const seen = run(join(home, 'bin/node'), join(home, 'berth.cjs'), 'version', '-j');
    assert.deepInclude(JSON.parse(seen) as object, { version: VERSION, platform: 'linux/arm64' });
    // What it says of the disk, the addon has asked the kernel. Runtimes are not to be started from an emulator.
    const { stdout } = spawnSync(
      EMULATOR[0],
      [...EMULATOR.slice(1), join(home, 'bin/node'), join(home, 'berth.cjs'), 'check', '--node', '--json'],
      { encoding: 'utf8' },
    );
    assert.match(stdout, /"name": "disk",\s+"standing": "[a-z]+",\s+"detail": "[^"]* [1-9]\d* MiB free/);
  });
});
