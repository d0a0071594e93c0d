/** Who is who in a cluster: an authority made on the spot, certificates of it, and kubeconfigs that hold them. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Longer than any run. */
const DAYS = '7';

export interface Identity {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface IdentityOptions {
  /** Name of the files. */
  readonly name: string;
  /** The user, by Kubernetes' reading of a certificate. */
  readonly commonName: string;
  /** The user's group. */
  readonly organization?: string;
  /** What the certificate may be shown as a server for. */
  readonly addresses?: readonly string[];
  readonly names?: readonly string[];
}

export class Authority {
  readonly caFile: string;
  readonly #directory: string;

  /** A new authority, with everything that it signs in `directory`. */
  constructor(directory: string) {
    this.#directory = directory;
    this.caFile = join(directory, 'ca.crt');
    request(join(directory, 'ca'), '/CN=berth cluster', ['-addext', 'basicConstraints=critical,CA:TRUE']);
  }

  /** A certificate for a client, a server or both. */
  sign({ name, commonName, organization, addresses = [], names = [] }: IdentityOptions): Identity {
    const base = join(this.#directory, name);
    const subject = `${organization === undefined ? '' : `/O=${organization}`}/CN=${commonName}`;
    const alternatives = [...addresses.map((each) => `IP:${each}`), ...names.map((each) => `DNS:${each}`)];
    request(base, subject, [
      '-CA',
      this.caFile,
      '-CAkey',
      join(this.#directory, 'ca.key'),
      '-addext',
      'basicConstraints=critical,CA:FALSE',
      '-addext',
      'extendedKeyUsage=serverAuth,clientAuth',
      ...(alternatives.length === 0 ? [] : ['-addext', `subjectAltName=${alternatives.join(',')}`]),
    ]);
    return { certFile: `${base}.crt`, keyFile: `${base}.key` };
  }

  /** The file of a kubeconfig by which `identity` reaches `server`. */
  kubeconfig(name: string, server: string, identity: Identity): string {
    const file = join(this.#directory, `${name}.kubeconfig`);
    const data = (path: string): string => readFileSync(path).toString('base64');
    const user = {
      'client-certificate-data': data(identity.certFile),
      'client-key-data': data(identity.keyFile),
    };
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'berth',
      clusters: [{ name: 'berth', cluster: { server, 'certificate-authority-data': data(this.caFile) } }],
      users: [{ name, user }],
      contexts: [{ name: 'berth', context: { cluster: 'berth', user: name } }],
    };
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }
}

function request(base: string, subject: string, more: readonly string[]): void {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const files = ['-keyout', `${base}.key`, '-out', `${base}.crt`];
  execFileSync('openssl', ['req', '-x509', '-days', DAYS, ...key, ...files, '-subj', subject, ...more], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
}
