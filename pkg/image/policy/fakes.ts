/** For tests: files of a node's registry configuration, and a certificate with its key. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseReference, withDefaultTag } from '../../oci/reference.ts';
import { RecordingLog, testOp } from '../fakes.ts';
import type { Endpoint } from '../registry/repository.ts';
import { RegistryPolicy } from './policy.ts';
import type { PolicyOptions } from './policy.ts';

/** A directory with configuration, and what a policy makes of it. */
export class PolicyGround {
  readonly directory: string;
  readonly log = new RecordingLog();

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async make(): Promise<PolicyGround> {
    return new PolicyGround(await mkdtemp(join(tmpdir(), 'policy-')));
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true });
  }

  /** Writes a file below the directory; gives its path. */
  async put(name: string, text: string): Promise<string> {
    const path = join(this.directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
    return path;
  }

  /** A policy over `registries.conf`, `registries.conf.d`, `certs.d` and `hosts` here. */
  policy(options: Partial<PolicyOptions> = {}): RegistryPolicy {
    const { directory } = this;
    return new RegistryPolicy({
      registriesConf: join(directory, 'registries.conf'),
      registriesConfDir: join(directory, 'registries.conf.d'),
      certsDirs: [join(directory, 'certs.d')],
      hostsDirs: [join(directory, 'hosts')],
      ...options,
    });
  }

  /** The same with this `registries.conf`, read. */
  async loaded(text: string, options: Partial<PolicyOptions> = {}): Promise<RegistryPolicy> {
    await this.put('registries.conf', text);
    const policy = this.policy(options);
    await policy.refresh(testOp(this.log));
    return policy;
  }

  endpoints(policy: RegistryPolicy, text: string): Promise<readonly Endpoint[]> {
    return policy.endpoints(testOp(this.log), withDefaultTag(parseReference(text)));
  }

  /** `root repository kind` of each endpoint, and what is special about it. */
  async where(policy: RegistryPolicy, text: string): Promise<string[]> {
    return (await this.endpoints(policy, text)).map(({ root, repository, kind, security, serves }) =>
      [root, repository, kind, security === 'insecure' ? security : '', serves === 'all' ? '' : serves]
        .filter((each) => each !== '')
        .join(' '),
    );
  }
}

/** A certificate that signs itself, for a hundred years. */
export const TEST_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIUAr1L8QIEruuP1fCJqFAdBF6NoZ0wCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKYmVydGggdGVzdDAgFw0yNjExMzAxNTE2MjFaGA8yMTI2MTEw
NjE1MTYyMVowFTETMBEGA1UEAwwKYmVydGggdGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABEDQ71FejcULlk+eiZ6zGG1A3J3kl2xlNllsshdc1rcdRJKEmGf/
KlVGVXqb07iS8y/4kilJknqaUeXNI4N5RKOjUzBRMB0GA1UdDgQWBBS46kr/k4X0
AWL+/7V2/0KvgbGxsDAfBgNVHSMEGDAWgBS46kr/k4X0AWL+/7V2/0KvgbGxsDAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCk7b6tPCey6uwhhQJS
n8O0sLOOP29ldtnLh3UaYlAiWwIgaQ7mbDAvPjmfsB40dP9UA9wh0ee+aXuCNpff
kVVnPLU=
-----END CERTIFICATE-----
`;

/** Its key. */
export const TEST_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/aZphtcnGNihiBzC
BdbYSLsx3IaEy+A5/09DNaxWNQmhRANCAARA0O9RXo3FC5ZPnomesxhtQNyd5Jds
ZTZZbLIXXNa3HUSShJhn/ypVRlV6m9O4kvMv+JIpSZJ6mlHlzSODeUSj
-----END PRIVATE KEY-----
`;

/** The key of something else. */
export const OTHER_KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgU1WH+QHHNAdQ1I8L
2NT6qXXnPVBLczJ/ygD1zQwKU16hRANCAATZR0iDJNq8nK3zRU4MsKLwvdY2/uwU
+L9JlFDqYTB+ZSogoAYl8Q5Gr1ZCDJK5PZiXODTbISegyzssIYolyfO5
-----END PRIVATE KEY-----
`;
