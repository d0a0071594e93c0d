/** One protection, and the tests that ought to notice when it is gone. See scripts/mutate.ts. */
export interface Mutant {
  /** What is protected, so that "without it" makes sense. */
  readonly what: string;
  readonly file: string;
  /** A line or a part of one, which is there exactly once. */
  readonly from: string;
  readonly to: string;
  readonly tests: readonly string[];
  /** Only tests with this in their title. */
  readonly grep?: string;
}

const LAYER_WRITER = 'pkg/rootfs/layer-writer.ts';
const HTTP = 'pkg/image/registry/http.ts';
const CLIENT = 'pkg/image/registry/client.ts';
const REGISTRY = ['pkg/image/registry/*.test.ts', 'pkg/image/pull.test.ts'] as const;

/** Lines of images and layers whose loss must turn some test red: one for each thing that a stranger could do. */
export const IMAGE_MUTANTS: readonly Mutant[] = [
  {
    what: 'a blob that is here is shown before who names it gets it as a file',
    file: 'pkg/image/install-files.ts',
    from: "here !== undefined && proof === 'wanted'",
    to: 'false',
    tests: ['pkg/image/artifact.test.ts'],
  },
  {
    what: 'an image and an artifact are never one',
    file: 'pkg/image/retention.ts',
    from: '(known.artifact === undefined) !== (facts.artifact === undefined)',
    to: 'false',
    tests: ['pkg/image/artifact.test.ts'],
  },
  {
    what: 'names of files stay in their volume',
    file: 'pkg/rootfs/file-volume.ts',
    from: "  const place = posix.resolve('/', name);",
    to: '  const place = `/${name}`;',
    tests: ['pkg/rootfs/file-volume.test.ts'],
  },
  {
    what: 'a certificate counts only as long as it was valid',
    file: 'pkg/image/signature/chain.ts',
    from: '  if (atMs > certificate.notAfterMs)',
    to: '  if (atMs > Infinity)',
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: 'whoever has a certificate cannot issue others',
    file: 'pkg/image/signature/chain.ts',
    from: '    if (!issuer.isAuthority) ',
    to: '    if (false) ',
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: "a log's entry counts only with the log's signature",
    file: 'pkg/image/signature/transparency.ts',
    from: '  if (!keys.some((key) => verify(',
    to: '  if (false && !keys.some((key) => verify(',
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: "a log's entry is of this text",
    file: 'pkg/image/signature/transparency.ts',
    from: ' !== digestOf(payload))',
    to: " === '')",
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: "a log's entry is of this certificate",
    file: 'pkg/image/signature/transparency.ts',
    from: '.equals(by))',
    to: '.equals(by) && false)',
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: 'a certificate is of whom the policy names',
    file: 'pkg/image/signature/sigstore.ts',
    from: '  if (!emails.includes(email))',
    to: '  if (false)',
    tests: ['pkg/image/signature/sigstore.test.ts'],
  },
  {
    what: 'the query of a signed URL stays out of errors',
    file: HTTP,
    from: '  return `${url.protocol}//${url.host}${url.pathname.slice(0, 300)}`;',
    to: '  return url.href;',
    tests: REGISTRY,
  },
  {
    what: 'credentials stay with their origin',
    file: HTTP,
    from: "    delete headers['authorization'];",
    to: '',
    tests: REGISTRY,
  },
  {
    what: 'https never becomes http',
    file: HTTP,
    from: "url.protocol === 'http:' && route.verification === 'verify'",
    to: 'false',
    tests: REGISTRY,
  },
  {
    what: 'no registry leads us to the metadata of the cloud',
    file: HTTP,
    from: '  refuseInward(from.url, url);',
    to: '',
    tests: REGISTRY,
  },
  {
    what: 'redirects end',
    file: CLIENT,
    from: 'hops >= limits.redirectsCount',
    to: 'hops >= 2 * limits.redirectsCount',
    tests: REGISTRY,
  },
  {
    what: 'a document has a bound while it is read',
    file: CLIENT,
    from: '    if (total > max)',
    to: '    if (false)',
    tests: REGISTRY,
  },
  {
    what: 'a token server without TLS is told nothing',
    file: 'pkg/image/registry/authorizer.ts',
    from: "door.url.protocol === 'https:' && realm.protocol !== 'https:'",
    to: 'false',
    tests: REGISTRY,
  },
  {
    what: 'another registry to which ours sends us does not hear who we are',
    file: 'pkg/image/registry/repository.ts',
    from: 'isSameBehindTls(from, url) ? this.#credentials : anonymous',
    to: 'this.#credentials',
    tests: REGISTRY,
  },
  {
    what: 'content has the digest that was asked for',
    file: 'pkg/oci/digest.ts',
    from: '    if (actual !== this.#digest) throw',
    to: '    if (false) throw',
    tests: ['pkg/{oci,image}/*.test.ts'],
  },
  {
    what: 'content is no longer than promised',
    file: 'pkg/oci/digest.ts',
    from: 'this.#sizeBytes !== undefined && this.#seen > this.#sizeBytes',
    to: 'false',
    tests: ['pkg/oci/*.test.ts'],
  },
  {
    what: 'a document is a manifest or an index, never both',
    file: 'pkg/oci/manifest.ts',
    from: '  if (hasManifests && hasImage) throw',
    to: '  if (false) throw',
    tests: ['pkg/oci/*.test.ts'],
  },
  {
    what: 'the path of a layer does not climb',
    file: LAYER_WRITER,
    from: "        throw new RuntimeError('PermissionDenied', `the path ${quote(raw)} leads out of the layer`);",
    to: '        continue;',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'a layer sets no attribute that steers the overlay',
    file: LAYER_WRITER,
    from: "    name.startsWith('trusted.overlay.') ||",
    to: '',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'links of a layer end',
    file: LAYER_WRITER,
    from: '      if (linksLeft === 0)',
    to: '      if (false)',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'copies of hard links are bounded',
    file: LAYER_WRITER,
    from: '    if (bytes > bounds.copiedBytes) {',
    to: '    if (false) {',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'a layer has so many entries',
    file: 'pkg/rootfs/tar.ts',
    from: '++this.#entriesCount > this.#limits.entriesCount',
    to: 'false',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'a layer has so much content, holes included',
    file: 'pkg/rootfs/tar.ts',
    from: 'this.#contentBytes > this.#limits.contentBytes',
    to: 'false',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'an extended header has a bound',
    file: 'pkg/rootfs/tar-extended.ts',
    from: '    if (sizeBytes > this.#limits.recordBytes)',
    to: '    if (false)',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'names of a layer are counted',
    file: 'pkg/rootfs/layer-names.ts',
    from: '    this.#account.take(ENTRY_BYTES + text.length, WHAT);',
    to: '',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'default ACLs of a layer are counted',
    file: 'pkg/rootfs/layer-names.ts',
    from: '    this.#account.take(acl.length, WHAT);',
    to: '',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'the window of zstd data is counted',
    file: 'pkg/rootfs/decompress.ts',
    from: "    this.#account.take(bytes - this.#windowBytes, 'the window of the zstd data');",
    to: '',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'a document of an image is counted before it is parsed',
    file: 'pkg/oci/document.ts',
    from: '  if (excess !== undefined)',
    to: '  if (false)',
    tests: ['pkg/oci/*.test.ts'],
  },
  {
    what: 'a name in an archive has no NUL',
    file: 'pkg/rootfs/tar.ts',
    from: "    if (name.includes('\\0')) throw",
    to: '    if (false) throw',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'an id in an archive is one',
    file: 'pkg/rootfs/tar.ts',
    from: '    if (id > ID_MAX) throw',
    to: '    if (false) throw',
    tests: ['pkg/rootfs/*.test.ts'],
  },
  {
    what: 'names that strangers choose do not make metrics grow without end',
    file: 'cri/metrics/registry.ts',
    from: 'samples.size >= limits.metricSeriesCount',
    to: 'false',
    tests: ['cri/metrics/registry.test.ts'],
  },
  {
    what: 'spans that nobody takes do not wait without end',
    file: 'cri/traces/exporter.ts',
    from: 'this.#queue.length >= limits.spansQueuedCount',
    to: 'false',
    tests: ['cri/traces/traces.test.ts'],
    grep: 'queue',
  },
  {
    what: 'a container that is paused can be stopped',
    file: 'pkg/pod/stop.ts',
    from: '    await this.#thaw(op);',
    to: '',
    tests: ['cri/inspect.test.ts'],
    grep: 'stopped',
  },
];
