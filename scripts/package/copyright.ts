/** Whose work is in a package: ours, that of the npm packages in the bundle, and Node with all that is in it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');

const APACHE = 'The text is in /usr/share/common-licenses/Apache-2.0 on Debian systems.';

interface Locked {
  readonly packages: Readonly<
    Record<string, { readonly version?: string; readonly license?: string; readonly dev?: true }>
  >;
}

/** The text of /usr/share/doc/berth/copyright. */
export function copyright(): string {
  return [
    'Berth, a Kubernetes container runtime.',
    'Copyright 2026 Berth maintainers',
    `License: Apache-2.0. ${APACHE}`,
    '',
    'The packages below are in the program as it is installed, each under its own license.',
    ...bundled().flatMap(([name, version, license, text]) => ['', title(`${name} ${version}: ${license}`), '', text]),
    '',
    title('Node.js, in /usr/lib/berth/bin/node: MIT'),
    '',
    'Its license, with those of all that is part of it, is in LICENSE.node beside this file.',
    '',
  ].join('\n');
}

function title(text: string): string {
  return `${text}\n${'-'.repeat(text.length)}`;
}

/** Everything that dependencies bring, whether or not the bundle has a use for all of it. */
function bundled(): readonly (readonly [name: string, version: string, license: string, text: string])[] {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as Locked;
  return Object.entries(packages)
    .filter(([path, { dev }]) => path !== '' && dev !== true)
    .map(([path, { version = '', license = '' }]) => {
      const name = path.replace(/^.*node_modules\//, '');
      if (license === 'Apache-2.0') return [name, version, license, APACHE];
      const directory = join(ROOT, path);
      const file = readdirSync(directory).find((name) => /^licen[sc]e/i.test(name));
      const text = file === undefined ? 'See its package.json.' : readFileSync(join(directory, file), 'utf8').trimEnd();
      return [name, version, license, text];
    });
}
