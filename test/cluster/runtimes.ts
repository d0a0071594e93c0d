/** What can serve CRI on a node: Berth, or containerd beside it for figures. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { containerdConfig } from '../../bench/containerd-config.ts';
import { CNI_PLUGINS } from '../../bench/ground.ts';

const BUILD = process.env['BERTH_BUILD'] ?? new URL('../../build/', import.meta.url).pathname;

export interface NodeRuntime {
  readonly name: string;
  /** Where it serves, on its node. */
  readonly socket: string;
  /** Writes what it is configured by, and returns its command line. */
  command(place: RuntimePlace): string[];
}

export interface RuntimePlace {
  /** The node's directory, which outlives its power. */
  readonly directory: string;
  /** A registry that speaks plain HTTP. */
  readonly registry: string;
}

/** @param runc what runs containers by default, instead of what Berth chooses. */
export function berth(runc?: string): NodeRuntime {
  return {
    name: 'berth',
    socket: '/run/berth/berth.sock',
    command: ({ directory }) => {
      const places = { root: 'berth', 'config-dir': 'none', 'log-dir': 'log/berth', 'cni-config-dir': 'net.d' };
      const flags = Object.entries(places).flatMap(([flag, place]) => [`--${flag}`, join(directory, place)]);
      const handler = runc === undefined ? [] : ['--runtimes', `current:${runc}`, '--default-runtime', 'current'];
      return [join(BUILD, 'bin/berth'), '--config', '/dev/null', ...flags, '--cni-plugin-dir', CNI_PLUGINS, ...handler];
    },
  };
}

/** containerd 2. @param pause image of its infra containers, in the registry; Berth does without. */
export function containerd(program: string, runtime: string, pause: string): NodeRuntime {
  const socket = '/run/containerd/containerd.sock';
  return {
    name: 'containerd',
    socket,
    command: ({ directory, registry }) => {
      const hosts = join(directory, 'certs.d', registry);
      for (const each of [hosts, join(directory, 'containerd')]) mkdirSync(each, { recursive: true });
      writeFileSync(join(hosts, 'hosts.toml'), `server = "http://${registry}"\n`);
      const file = join(directory, 'containerd.toml');
      const places = {
        dir: join(directory, 'containerd'),
        run: '/run',
        socket,
        confDir: join(directory, 'net.d'),
        certs: join(directory, 'certs.d'),
        runtime,
        pauseImage: `${registry}/${pause}`,
      };
      writeFileSync(file, containerdConfig(2, places));
      // Its shim lies beside it; what the distribution has may be in PATH, too.
      return ['env', `PATH=${dirname(program)}:${process.env['PATH']}`, program, '--config', file];
    },
  };
}
