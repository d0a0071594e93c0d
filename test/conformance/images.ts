/**
 * Look-alikes of the images that critest pulls, made on the spot and pushed to a registry on loopback, which a
 * registries.conf puts in the place of the registries they are named after. critest compares tags with the names that
 * it asked for, so mirrors are the only way.
 *
 * What each image must be able to do is said beside it; the programs are in programs.ts.
 */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  buildImage,
  buildIndex,
  busybox,
  dir,
  file,
  type ImagePlan,
  type LayerFile,
  push,
  symlink,
} from '../e2e/images.ts';
import { GOARCH, nginxTree, noNewPrivsProgram, staticBusybox } from './programs.ts';

/** Which registries the look-alikes stand for. */
const REGISTRIES = ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io'];
const E2E = 'registry.k8s.io/e2e-test-images';
const STAGING = 'gcr.io/k8s-staging-cri-tools';
const PLATFORM = { os: 'linux', architecture: GOARCH };

interface LookAlike {
  /** Tags of one and the same image. */
  readonly references: readonly string[];
  readonly image: ImagePlan;
  /** As a manifest list, beside the image of another platform. */
  readonly list?: boolean;
}

/**
 * Builds all look-alikes below `directory`, pushes them to the registry at `host`, and returns the path of a
 * registries.conf that leads there and nowhere else.
 */
export async function publishImages(directory: string, host: string): Promise<string> {
  const all = await lookAlikes();
  for (const [i, each] of all.entries()) {
    const name = `image-${i}`;
    const image = { ...each.image, platform: PLATFORM };
    const options = { directory: join(directory, name), name };
    const other = {
      layers: [{ files: [file('elsewhere', 'not for this machine')] }],
      platform: { os: 'linux', architecture: 's390x' },
    };
    const built =
      each.list === true
        ? await buildIndex({ ...options, images: [other, image] })
        : await buildImage({ ...options, ...image });
    for (const reference of each.references) await push(built, `${host}/${withTag(reference)}`);
  }
  const conf = join(directory, 'registries.conf');
  mkdirSync(directory, { recursive: true });
  writeFileSync(conf, registriesConf(host));
  return conf;
}

function withTag(reference: string): string {
  return /:[^/]+$/.test(reference) ? reference : `${reference}:latest`;
}

/** The mirror has everything; the registry itself is not to be asked, also when an image is missing. */
export function registriesConf(host: string, registries: readonly string[] = REGISTRIES): string {
  return registries
    .map(
      (name) =>
        `[[registry]]\nprefix = "${name}"\nlocation = "${host}/not-there"\ninsecure = ` +
        `true\n\n[[registry.mirror]]\nlocation = "${host}/${name}"\ninsecure = true\n`,
    )
    .join('\n');
}

async function lookAlikes(): Promise<LookAlike[]> {
  const box = await busybox(staticBusybox());
  const plain = (config: Record<string, unknown>): ImagePlan => ({
    layers: [{ files: box }],
    config: { Cmd: ['sh'], Env: [PATH], ...config },
  });
  const marked = (text: string): ImagePlan => ({
    ...plain({}),
    layers: [{ files: box }, { files: [file('marker', text)] }],
  });
  const user = (name: string, User: string): LookAlike => ({
    references: [`${STAGING}/test-image-user-${name}`],
    image: plain({ User }),
  });
  return [
    // Nearly all containers: sh, top, sleep, id, ipcs, netstat, nc, mount, touch, brctl, hostname, pgrep.
    { references: [`${E2E}/busybox:1.29-2`], image: plain({}), list: true },
    // A real nginx: its pid file, the title of its first process and what it serves are looked at.
    { references: [`${E2E}/nginx:1.14-2`], image: nginx(box, 80) },
    { references: [`${STAGING}/hostnet-nginx-${GOARCH}`], image: nginx(box, 12_003) },
    // Serves on port 80 and says its name in the log.
    { references: [`${E2E}/httpd:2.4.39-4`], image: httpd(box) },
    // Prints the effective uid, and is set-uid root.
    { references: [`${E2E}/nonewprivs:1.3`], image: noNewPrivs() },
    // Names and ids, each its own.
    { references: [`${STAGING}/test-image-latest`], image: marked('latest') },
    { references: [`${STAGING}/test-image-tag:test`], image: marked('tag test') },
    { references: [`${STAGING}/test-image-tag:all`], image: marked('tag all') },
    { references: [`${STAGING}/test-image-1:latest`], image: marked('1') },
    { references: [`${STAGING}/test-image-2:latest`], image: marked('2') },
    { references: [`${STAGING}/test-image-3:latest`], image: marked('3') },
    { references: ['1', '2', '3'].map((tag) => `${STAGING}/test-image-tags:${tag}`), image: marked('tags') },
    user('uid', '1002'),
    user('username', 'www-data'),
    user('uid-group', '1003:1004'),
    user('username-group', 'www-data:1004'),
    // A user whom the image's own /etc/group puts into a group.
    { references: [`${STAGING}/test-image-predefined-group`], image: predefinedGroup(box) },
    { references: ['registry.k8s.io/pause:3.9', 'k8s.gcr.io/pause:3.9'], image: pause() },
  ];
}

export const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function httpd(box: readonly LayerFile[]): ImagePlan {
  const script = '#!/bin/sh\necho "httpd -D FOREGROUND"\nexec httpd -f -p 80 -h /www\n';
  return {
    layers: [
      { files: box },
      {
        files: [dir('www'), file('www/index.html', '<html>It works!</html>\n'), file('serve', script, { mode: 0o755 })],
      },
    ],
    config: { Cmd: ['/serve'], Env: [PATH] },
  };
}

export function noNewPrivs(): ImagePlan {
  return {
    layers: [{ files: [file('nnp', readFileSync(noNewPrivsProgram()), { mode: 0o4755 }), dir('etc')] }],
    config: { Entrypoint: ['/nnp'] },
  };
}

export function pause(): ImagePlan {
  const program = new URL('../../build/bin/pause', import.meta.url);
  return {
    layers: [{ files: [file('pause', readFileSync(program), { mode: 0o755 })] }],
    config: { Entrypoint: ['/pause'], User: '65535:65535' },
  };
}

function predefinedGroup(box: readonly LayerFile[]): ImagePlan {
  const append = (path: string, line: string): LayerFile =>
    file(path, Buffer.concat([box.find((each) => each.path === path)?.content ?? Buffer.alloc(0), Buffer.from(line)]));
  const files = [
    append('etc/passwd', 'default-user:x:1000:1000::/home/default-user:/bin/sh\n'),
    append('etc/group', 'default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n'),
  ];
  return { layers: [{ files: box }, { files }], config: { Cmd: ['sh'], Env: [PATH], User: '1000' } };
}

export function nginx(box: readonly LayerFile[], port: number): ImagePlan {
  const conf = `user nobody nogroup;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events {}
http { access_log off; server { listen ${port}; root /usr/share/nginx/html; } }
`;
  const directories = [
    'var/run',
    'var/lib',
    'var/lib/nginx',
    'var/log',
    'var/log/nginx',
    'etc/nginx',
    'usr',
    'usr/sbin',
    'usr/lib',
    'usr/share',
    'usr/share/nginx',
    'usr/share/nginx/html',
    'lib',
    'lib64',
  ];
  const files = [
    ...directories.map((path) => dir(path)),
    ...librariesOf(nginxTree()),
    file('usr/sbin/nginx', readFileSync(join(nginxTree(), 'usr/sbin/nginx')), { mode: 0o755 }),
    file('usr/share/nginx/html/index.html', '<html>Welcome to nginx!</html>\n'),
    file('etc/nginx/nginx.conf', conf),
  ];
  return { layers: [{ files: box }, { files }], config: { Cmd: ['nginx', '-g', 'daemon off;'], Env: [PATH] } };
}

/** The shared libraries of an unpacked tree, with their links, where the loader looks for them. */
function librariesOf(tree: string): LayerFile[] {
  const found: LayerFile[] = [];
  for (const parent of ['lib', 'lib64', 'usr/lib']) {
    for (const entry of readdirSync(join(tree, parent), { withFileTypes: true, recursive: true })) {
      const path = join(entry.parentPath, entry.name);
      const name = path.slice(tree.length + 1);
      if (!/\.so(\.|$)/.test(entry.name) || name.split('/').length > 4) continue;
      if (entry.isSymbolicLink()) found.push(symlink(name, readlinkSync(path)));
      else if (entry.isFile()) found.push(file(name, readFileSync(path), { mode: 0o755 }));
    }
  }
  const parents = new Set(found.map((each) => each.path.slice(0, each.path.lastIndexOf('/'))));
  return [...[...parents].sort().map((path) => dir(path)), ...found];
}
