/** PURE. What an operator demands of TLS, in Go's words as crio.conf has them, as Node and OpenSSL take it. */

/** See StreamServerOptions. */
export interface TlsDemands {
  readonly minVersion: 'VersionTLS12' | 'VersionTLS13';
  /**
   * IANA names; none: those of Node. Those of TLS 1.3 cannot be chosen in Go, and stay allowed unless some are named.
   */
  readonly cipherSuites: readonly string[];
}

const TLS13_SUITES = ['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256'];

/** Options of a secure context. */
export function tlsOptions({ minVersion, cipherSuites }: TlsDemands): {
  readonly minVersion: 'TLSv1.2' | 'TLSv1.3';
  readonly ciphers?: string;
} {
  const version = minVersion === 'VersionTLS13' ? 'TLSv1.3' : 'TLSv1.2';
  if (cipherSuites.length === 0) return { minVersion: version };
  // Node allows no TLS 1.3 at all where a list names none of its suites.
  const modern = cipherSuites.some((name) => !name.includes('_WITH_')) ? [] : TLS13_SUITES;
  return { minVersion: version, ciphers: [...cipherSuites.map(opensslName), ...modern].join(':') };
}

/**
 * `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256` as `ECDHE-RSA-AES128-GCM-SHA256`. Suites of TLS 1.3 have one name everywhere.
 */
export function opensslName(suite: string): string {
  if (!suite.includes('_WITH_')) return suite;
  return suite
    .replace(/^TLS_/, '')
    .replace('_WITH_', '-')
    .replace(/AES_(\d+)_CBC/, 'AES$1')
    .replace(/AES_(\d+)_GCM/, 'AES$1-GCM')
    .replace('CHACHA20_POLY1305_SHA256', 'CHACHA20-POLY1305')
    .replaceAll('_', '-');
}
