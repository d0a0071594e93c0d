/** certs.d (containers-certs.d(5)): authorities and client certificates of a registry host. */
import { basename, join } from 'node:path';
import { RuntimeError } from '../../base/errors.ts';
import { readBounded, readDirSorted } from '../../base/files.ts';
import { limits } from '../../base/limits.ts';
import type { Route } from '../registry/http.ts';

/** `*.crt` are authorities; `x.cert` and `x.key` are a pair (containers-certs.d(5)). */
export async function readCertificates(
  directories: readonly string[],
  domain: string,
): Promise<Pick<Route, 'ca' | 'clientCertificates'>> {
  for (const directory of directories) {
    const own = join(directory, domain);
    const names = await readDirSorted(own).catch(() => [] as string[]);
    if (names.length === 0) continue;
    const ca: string[] = [];
    const clientCertificates: { cert: string; key: string }[] = [];
    for (const name of names) {
      if (name.endsWith('.crt')) ca.push(await readPem(join(own, name)));
      if (!name.endsWith('.cert')) continue;
      const key = `${basename(name, '.cert')}.key`;
      if (!names.includes(key))
        throw new RuntimeError('FailedPrecondition', `${join(own, name)} has no key beside it (${key})`);
      clientCertificates.push({ cert: await readPem(join(own, name)), key: await readPem(join(own, key)) });
    }
    return { ca, clientCertificates };
  }
  return { ca: [], clientCertificates: [] };
}

/** A file in PEM. @throws FailedPrecondition that names it. */
export async function readPem(path: string): Promise<string> {
  try {
    return (await readBounded(path, limits.configFileBytes)).toString('latin1');
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `certificate file ${path} cannot be read`, { cause });
  }
}
