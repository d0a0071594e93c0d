/** Look-alikes of the images that Kubernetes' node conformance pulls, beside those of critest. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { nginx, noNewPrivs, PATH, pause, registriesConf } from '../conformance/images.ts';
import { GOARCH, nginxTree, noNewPrivsProgram, staticBusybox } from '../conformance/programs.ts';
import {
  buildImage,
  busybox,
  dir,
  file,
  type ImagePlan,
  type LayerFile,
  type LayerPlan,
  push,
  symlink,
} from '../e2e/images.ts';
import { Authority } from './certificates.ts';
import { type KubernetesName, programOf } from './programs.ts';

const REGISTRY = 'registry.k8s.io';
const E2E = `${REGISTRY}/e2e-test-images`;

/** Makes what takes a network, so that it is there later. */
export function makePrograms(): void {
  staticBusybox();
  nginxTree();
  noNewPrivsProgram();
}

/**
 * Builds all below `directory`, pushes them to the registry at `host`, and returns what a registries.conf has to say
 * that has them found there.
 */
export async function publishConformance(kubernetes: KubernetesName, directory: string, host: string): Promise<string> {
  for (const [at, { references, image }] of (await lookAlikes(kubernetes, directory)).entries()) {
    const name = `conformance-${at}`;
    const platform = { os: 'linux', architecture: GOARCH };
    const built = await buildImage({ ...image, platform, directory: join(directory, name), name });
    for (const reference of references) await push(built, `${host}/${reference}`);
  }
  return registriesConf(host, [REGISTRY]);
}

interface LookAlike {
  /** Tags of one and the same image. */
  readonly references: readonly string[];
  readonly image: ImagePlan;
}

async function lookAlikes(kubernetes: KubernetesName, directory: string): Promise<LookAlike[]> {
  const box = await busybox(staticBusybox());
  const plain = (config: Record<string, unknown> = {}): ImagePlan => ({
    layers: [{ files: box }],
    config: { Cmd: ['sh'], Env: [PATH], ...config },
  });
  const tools = { files: programs(['/usr/bin/curl', '/usr/bin/hostname']) };
  const agnhost = agnhostImage(programOf(kubernetes, 'agnhost'), directory, [{ files: box }, tools]);
  return [
    { references: [`${REGISTRY}/pause:3.10.2`], image: pause() },
    { references: [`${E2E}/busybox:1.37.0-1`], image: plain() },
    { references: [`${E2E}/nonroot:1.5`], image: plain({ User: '1234' }) },
    // ipcs is all that is asked of it.
    { references: [`${E2E}/ipc-utils:1.4`], image: plain() },
    { references: [`${E2E}/nonewprivs:1.4`], image: noNewPrivs() },
    { references: [`${E2E}/nginx:1.15-4`, `${E2E}/nginx:1.27-0`], image: nginx(box, 80) },
    // glibc's way to find the name of a host is what is looked at.
    { references: [`${E2E}/glibc-dns-testing:2.0.0`], image: { ...plain(), layers: [{ files: box }, tools] } },
    ...['2.63.0', '2.55'].map((tag) => ({
      references: [`${E2E}/agnhost:${tag}`],
      image: { ...agnhost, layers: [...agnhost.layers, { files: [file('version', tag)] }] },
    })),
  ];
}

/** Nearly all that serves or asks by HTTP, DNS, UDP or gRPC; built from Kubernetes' own sources. */
function agnhostImage(program: string, directory: string, below: readonly LayerPlan[]): ImagePlan {
  const names = ['localhost', 'agnhost'];
  const identity = new Authority(directory).sign({ name: 'localhost', commonName: 'localhost', names });
  const users = ['root:x:0:0:root:/root:/bin/sh', 'user-defined-in-image:x:1000:1000::/home:/bin/sh'];
  const groups = ['root:x:0:', 'user-defined-in-image:x:1000:', 'group-defined-in-image:x:50000:user-defined-in-image'];
  const files = [
    file('agnhost', readFileSync(program), { mode: 0o755 }),
    symlink('agnhost-2', 'agnhost'),
    file('localhost.crt', readFileSync(identity.certFile)),
    file('localhost.key', readFileSync(identity.keyFile)),
    file('bin/bash', '#!/bin/sh\nexec /bin/sh "$@"\n', { mode: 0o755 }),
    dir('uploads'),
    file('etc/passwd', `${users.join('\n')}\n`),
    file('etc/group', `${groups.join('\n')}\n`),
  ];
  return { layers: [...below, { files }], config: { Entrypoint: ['/agnhost'], Cmd: ['pause'], Env: [PATH] } };
}

/** Programs of this machine with the libraries that they are linked with, where its loader looks for them. */
function programs(paths: readonly string[]): LayerFile[] {
  const said = paths.map((path) => execFileSync('ldd', [path], { encoding: 'utf8' })).join('');
  const libraries = new Set(said.match(/\/\S+\.so\S*/g) ?? []);
  const found = [...paths, ...libraries].map((path) => file(path.slice(1), readFileSync(path), { mode: 0o755 }));
  const parents = new Set(found.flatMap(({ path }) => parentsOf(path)));
  return [...[...parents].sort().map((path) => dir(path)), ...found];
}

function parentsOf(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_part, at) => parts.slice(0, at + 1).join('/'));
}
