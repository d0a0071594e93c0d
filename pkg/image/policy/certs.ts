/** certs.d (containers-certs.d(5)): authorities and client certificates of a registry host. */
import { X509Certificate } from 'node:crypto';
import { basename, join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { explain, RuntimeError } from '../../base/errors.ts';
import { readBounded, readDirSorted } from '../../base/files.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import type { Route } from '../registry/http.ts';

type Certificates = Pick<Route, 'ca' | 'clientCertificates'>;
type Client = Route['clientCertificates'][number];

/**
 * `*.crt` are authorities; `x.cert` and `x.key` are a pair. The first directory that has any for the host counts. One
 * that is of no use is left out with a warning that names it: fewer authorities are trusted then, never more.
 */
export async function readCertificates(op: Op, directories: readonly string[], domain: string): Promise<Certificates> {
  for (const directory of directories) {
    const own = join(directory, domain);
    const names = (await readDirSorted(own).catch(() => [] as string[])).filter((name) => /\.(crt|cert)$/.test(name));
    if (names.length > 0) return await readAll(op, own, names);
  }
  return { ca: [], clientCertificates: [] };
}

async function readAll(op: Op, directory: string, names: readonly string[]): Promise<Certificates> {
  const ca: string[] = [];
  const clientCertificates: Client[] = [];
  for (const name of names) {
    const path = join(directory, name);
    try {
      if (name.endsWith('.crt')) ca.push(await readAuthority(path));
      else clientCertificates.push(await readClient(path, join(directory, `${basename(name, '.cert')}.key`)));
    } catch (error) {
      op.log.warn('a certificate cannot be used, it is left out', { file: path, error: explain(error) });
    }
  }
  return { ca, clientCertificates };
}

/** Certificates of authorities in PEM. @throws FailedPrecondition that names the file. */
export async function readAuthority(path: string): Promise<string> {
  const text = await readPem(path);
  try {
    void new X509Certificate(text);
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `${path} has no certificate in PEM`, { cause });
  }
  return text;
}

/** A client certificate with its key, which may be in the same file. @throws FailedPrecondition that names the file. */
export async function readClient(path: string, keyPath: string): Promise<Client> {
  const cert = await readPem(path);
  const key = keyPath === path ? cert : await readPem(keyPath);
  try {
    createSecureContext({ cert, key });
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `${path} and the key in ${keyPath} are no pair in PEM`, { cause });
  }
  return { cert, key };
}

async function readPem(path: string): Promise<string> {
  try {
    return (await readBounded(path, limits.configFileBytes)).toString('latin1');
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `certificate file ${path} cannot be read`, { cause });
  }
}
