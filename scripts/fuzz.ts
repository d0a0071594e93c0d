/**
 * `npm run fuzz [-- TARGET… --seed N --seconds S]`: readers of hostile text and bytes get input that is nearly right.
 * What comes out is a value or a RuntimeError, soon; anything else is a failure, printed with the seed and the input
 * that show it again.
 *
 * Without targets all are tried, each for `--seconds` (default 60). `--seed` is printed; the same seed gives the same
 * inputs.
 *
 * `crash` comes only when it is named: a daemon that is killed under load, `--kills` times (default 1000), with
 * `--runtime runc` (default) or crun; as root.
 */
import { spawnSync } from 'node:child_process';
import { createPublicKey, type KeyObject } from 'node:crypto';
import { RuntimeError } from '../pkg/base/errors.ts';
import { parseChallenges } from '../pkg/image/registry/challenge.ts';
import { parseAuthFile } from '../pkg/image/registry/auth-file.ts';
import { parseRegistries } from '../pkg/image/policy/registries-conf.ts';
import { parsePolicy } from '../pkg/image/signature/requirements.ts';
import { parseNetworkConf } from '../pkg/network/conf.ts';
import { parseResult } from '../pkg/network/results.ts';
import { parseImageConfig } from '../pkg/oci/image-config.ts';
import { onlyBlock, readCertificate } from '../pkg/image/signature/certificate.ts';
import {
  alternativeNames,
  authorityExtension,
  codeSigning,
  entryOf,
  issuerEncoded,
  makeCertificate,
} from '../pkg/image/signature/fake-authority.ts';
import { makeKey, signatureOver } from '../pkg/image/signature/fakes.ts';
import { checkEntry } from '../pkg/image/signature/transparency.ts';
import type { LoggedSignature } from '../pkg/image/signature/transparency.ts';
import { parseManifest } from '../pkg/oci/manifest.ts';
import { selectPlatform } from '../pkg/oci/platform.ts';
import { complete, formatReference, parseName, parseReference, withDefaultTag } from '../pkg/oci/reference.ts';
import { fuzzTar } from '../pkg/rootfs/tar-fuzz.ts';
import { fuzzRegistry } from './fuzz-registry.ts';
import { onPrivateGround } from './ground.ts';
import { parseHeaderBlock } from '../pkg/stream/spdy-frames.ts';
import { parseMountinfo } from '../pkg/sys/mountinfo.ts';

/** More of the processor than this for a small input is a loop or a regular expression that runs away. */
const SLOW_MS = 2_000;
const DIGEST = `sha256:${'a'.repeat(64)}`;
const descriptor = (mediaType: string): object => ({ mediaType, digest: DIGEST, size: 7 });

const PULLS_AT_ONCE = 16;

interface Reader {
  /** Inputs that are right. */
  readonly corpus: readonly (string | Buffer)[];
  /** What is often in them. */
  readonly words: readonly string[];
  /** @throws RuntimeError for bad input; anything else is a failure. */
  readonly read: (input: Buffer) => unknown;
}

const JSON_WORDS = [
  'null',
  '{}',
  '[]',
  '""',
  '-1',
  '1e999',
  '0.5',
  '9007199254740993',
  '"__proto__":',
  '"constructor"',
  '\\u0000',
  '\ud800',
  'true',
  ',',
  ':',
  '{"a":',
  '[',
];
const TOML_WORDS = [
  '[[registry]]',
  'prefix = ',
  'location = ',
  'mirror',
  '"*.x"',
  'true',
  '[',
  ']',
  '=',
  '"""',
  '1979-05-27',
  'inf',
  '\\x00',
  '[a.b]',
];

/** Of each kind of key; new ones each time, so that a seed does not make these inputs again: what fails is printed. */
const SELF_SIGNED: Buffer[] = [];
function certificates(): readonly Buffer[] {
  for (const kind of ['P-256', 'rsa', 'ed25519'] as const) {
    const extensions = [
      authorityExtension(1),
      codeSigning,
      alternativeNames([0x81, 'a@b.c']),
      issuerEncoded('https://i'),
    ];
    SELF_SIGNED.push(onlyBlock(makeCertificate({ key: makeKey(kind), extensions }).pem));
  }
  return SELF_SIGNED;
}
const ENTRY = ((): { readonly text: string; readonly key: KeyObject; readonly signed: LoggedSignature } => {
  const [log, own] = [makeKey(), makeKey()];
  const payload = Buffer.from('payload');
  const signature = signatureOver(payload, own);
  const by = createPublicKey(own.pem).export({ type: 'spki', format: 'der' });
  const text = entryOf({ payload, signature, by: own.pem, log });
  return { text, key: createPublicKey(log.pem), signed: { payload, signature: Buffer.from(signature, 'base64'), by } };
})();

const readers: Readonly<Record<string, Reader>> = {
  manifest: {
    corpus: [
      JSON.stringify({
        schemaVersion: 2,
        config: descriptor('application/vnd.oci.image.config.v1+json'),
        layers: [descriptor('application/vnd.oci.image.layer.v1.tar+gzip')],
        annotations: { a: 'b' },
      }),
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: [
          {
            ...descriptor('application/vnd.oci.image.manifest.v1+json'),
            platform: { os: 'linux', architecture: 'arm', variant: 'v7' },
          },
        ],
      }),
    ],
    words: [
      ...JSON_WORDS,
      '"schemaVersion":1',
      '"manifests":',
      '"layers":',
      '"size":',
      'application/vnd.docker.distribution.manifest.v2+json',
      DIGEST,
    ],
    read(input) {
      const document = parseManifest(input, '');
      return document.kind === 'index'
        ? selectPlatform(document, { os: 'linux', architecture: 'arm', variant: 'v7' })
        : document;
    },
  },
  config: {
    corpus: [
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: {
          User: '1',
          Env: ['A=b'],
          Cmd: ['sh'],
          Volumes: { '/v': {} },
          Labels: { a: 'b' },
          StopSignal: 'SIGTERM',
          ExposedPorts: { '80/tcp': {} },
        },
        rootfs: { type: 'layers', diff_ids: [DIGEST] },
      }),
    ],
    words: [...JSON_WORDS, '"rootfs":', '"diff_ids":', '"Volumes":', '"Env":'],
    read: parseImageConfig,
  },
  reference: {
    corpus: [
      'busybox',
      'registry.example:5000/team/app:v1.2',
      `a.b/c/d@${DIGEST}`,
      `[::1]:80/x:y@${DIGEST}`,
      'localhost/a_b__c-d.e',
    ],
    words: [
      ':',
      '@',
      '/',
      '//',
      '..',
      '[',
      ']',
      'sha256:',
      'docker.io/',
      '%00',
      ' ',
      '\0',
      'ü',
      '-'.repeat(300),
      'a/'.repeat(200),
    ],
    read(input) {
      const reference = withDefaultTag(complete(parseName(input.toString('utf8')), 'docker.io'));
      const text = formatReference(reference);
      const again = formatReference(parseReference(text));
      if (again !== text) throw new Error(`${text} is read as ${again}`);
      return text;
    },
  },
  registries: {
    corpus: [
      'unqualified-search-registries = ["docker.io"]\nshort-name-mode = ' +
        '"enforcing"\n[[registry]]\nprefix = "*.example.com"\nlocation = "x.example/y"\ninsecure = ' +
        'true\nblocked = false\n[[registry.mirror]]\nlocation = "m.example"\npull-from-mirror = ' +
        '"digest-only"\n[aliases]\n"a" = "b.example/c"\n',
    ],
    words: TOML_WORDS,
    read: (input) => parseRegistries(input.toString('utf8'), 'fuzz'),
  },
  policy: {
    corpus: [
      JSON.stringify({
        default: [{ type: 'reject' }],
        transports: {
          docker: {
            'x.example/y': [{ type: 'insecureAcceptAnything' }],
            '': [
              {
                type: 'signedBy',
                keyType: 'GPGKeys',
                keyPath: '/k',
                signedIdentity: { type: 'matchRepoDigestOrExact' },
              },
            ],
          },
        },
      }),
    ],
    words: [...JSON_WORDS, '"default":', '"transports":', '"type":', '"sigstoreSigned"', '"keyData":'],
    read: parsePolicy,
  },
  certificate: {
    corpus: certificates(),
    words: [
      '\x30\x82',
      '\x06\x03\x55\x1d\x11',
      '\x06\x03\x55\x1d\x13',
      '\x01\x01\xff',
      '\x03\x02\x01\x06',
      '\x80',
      '\xa3',
    ],
    read(input) {
      const found = readCertificate(input);
      // Nobody may be told to be his own issuer who is not.
      if (found.isSignedBy(found) && !SELF_SIGNED.some((each) => each.equals(input)))
        throw new Error('a changed certificate is signed by itself');
      return found.subject;
    },
  },
  entry: {
    corpus: [ENTRY.text],
    words: [...JSON_WORDS, '"SignedEntryTimestamp":', '"Payload":', '"integratedTime":', '"logIndex":', '1e999', '-0'],
    read: (input) => checkEntry(input.toString('utf8'), [ENTRY.key], ENTRY.signed),
  },
  auth: {
    corpus: [
      JSON.stringify({
        auths: { 'x.example': { auth: 'dTpw' }, 'https://index.docker.io/v1/': { identitytoken: 't' } },
        credHelpers: { y: 'z' },
        credsStore: 's',
      }),
    ],
    words: [...JSON_WORDS, '"auths":', '"auth":', 'Bearer realm="', '",scope="', '=,', 'Basic '],
    read(input) {
      parseChallenges([input.toString('latin1')]);
      return parseAuthFile(input, 'fuzz');
    },
  },
  cni: {
    corpus: [
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'net',
        plugins: [
          { type: 'bridge', ipam: { type: 'host-local', ranges: [[{ subnet: '10.0.0.0/16' }]] } },
          { type: 'portmap', capabilities: { portMappings: true } },
        ],
      }),
      JSON.stringify({
        cniVersion: '1.0.0',
        interfaces: [{ name: 'eth0', mac: 'aa:bb:cc:dd:ee:ff', sandbox: '/n' }],
        ips: [{ address: '10.0.0.2/16', gateway: '10.0.0.1', interface: 0 }],
        dns: {},
      }),
    ],
    words: [
      ...JSON_WORDS,
      '"plugins":',
      '"type":',
      '"cniVersion":',
      '"ips":',
      '"address":',
      '0.3.1',
      '../../x',
      '::/0',
    ],
    read(input) {
      try {
        parseNetworkConf('fuzz.conflist', input.toString('utf8'));
      } catch (error) {
        if (!(error instanceof RuntimeError)) throw error;
      }
      return parseResult(input.toString('utf8'), '1.0.0');
    },
  },
  mountinfo: {
    corpus: [
      '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n37 36 0:5 / ' +
        '/a\\040b rw shared:7 - tmpfs tmpfs rw\n',
    ],
    words: ['\\040', '\\9', ' - ', '\n', 'shared:', 'master:', '0:0', '-1', '\\'],
    read: (input) => parseMountinfo(input.toString('latin1')),
  },
  spdy: {
    corpus: [
      Buffer.concat([
        Buffer.from([0, 0, 0, 1, 0, 0, 0, 4]),
        Buffer.from('type'),
        Buffer.from([0, 0, 0, 5]),
        Buffer.from('stdin'),
      ]),
    ],
    words: ['\0\0\0\x01', '\xff\xff\xff\xff', '\0\0\0\0', 'streamtype', '\0'],
    read: parseHeaderBlock,
  },
};

const { targets, seed, seconds, kills, runtime } = options(process.argv.slice(2));
if (targets.includes('crash')) crash();
console.log(`fuzz: seed ${seed}, ${seconds} s for each of ${targets.join(', ')}`);
for (const target of targets) await (target === 'registry' ? fuzzPulls() : fuzz(target));

/** On ground of its own, and instead of everything else. */
function crash(): never {
  const [command = '', ...args] = onPrivateGround([
    process.execPath,
    new URL('fuzz-crash.ts', import.meta.url).pathname,
    `${seed}`,
    `${kills}`,
    runtime,
  ]);
  process.exit(spawnSync(command, args, { stdio: 'inherit' }).status ?? 1);
}

async function fuzz(target: string): Promise<void> {
  const reader = readers[target];
  const until = performance.now() + seconds * 1000;
  let rounds = 0;
  const random = generator(seed);
  for (; performance.now() < until; rounds++) {
    if (reader === undefined) fuzzTar(seed + rounds, 20);
    else tryOne(target, reader, mutated(reader, random), rounds);
  }
  console.log(`fuzz: ${target}: ${reader === undefined ? rounds * 20 : rounds} inputs, nothing wrong`);
}

/** Some at once: most of a pull is waiting. The first one of `--seed N` is that of seed N. */
async function fuzzPulls(): Promise<void> {
  const until = performance.now() + seconds * 1000;
  let pulls = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < until) await fuzzRegistry(seed + pulls++);
  };
  await Promise.all(Array.from({ length: PULLS_AT_ONCE }, lane)).catch((error: unknown) => {
    console.error(`fuzz: registry: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  });
  console.log(`fuzz: registry: ${pulls} pulls, nothing wrong`);
}

function tryOne(target: string, reader: Reader, input: Buffer, round: number): void {
  const began = process.cpuUsage();
  let wrong: unknown;
  try {
    reader.read(input);
  } catch (error) {
    if (!(error instanceof RuntimeError)) wrong = error;
  }
  const tookMs = process.cpuUsage(began).user / 1000;
  if (tookMs > SLOW_MS) wrong ??= new Error(`took ${Math.round(tookMs)} ms`);
  if (wrong === undefined) return;
  console.error(
    `fuzz: ${target}, seed ${seed}, round ${round}: ` +
      `${wrong instanceof Error ? (wrong.stack ?? wrong.message) : JSON.stringify(wrong)}\ninput ` +
      `(base64): ${input.toString('base64')}`,
  );
  process.exit(1);
}

type Random = (below: number) => number;

/** An input of the corpus with some changes. */
function mutated({ corpus, words }: Reader, random: Random): Buffer {
  let bytes = Buffer.from(corpus[random(corpus.length)] ?? '');
  for (let changes = 1 + random(4); changes > 0; changes--) {
    const at = random(bytes.length + 1);
    const to = Math.min(bytes.length, at + random(random(4) === 0 ? 200 : 8));
    const word = Buffer.from(words[random(words.length)] ?? '', random(2) === 0 ? 'utf8' : 'latin1');
    const piece = [word, Buffer.from([random(256)]), bytes.subarray(at, to), Buffer.alloc(0)][random(4)] ?? word;
    bytes = Buffer.concat([
      bytes.subarray(0, at),
      ...Array.from({ length: random(8) === 0 ? random(300) : 1 }, () => piece),
      bytes.subarray(random(2) === 0 ? at : to),
    ]);
  }
  return bytes;
}

/** A linear congruential generator: small, and the same everywhere. */
function generator(start: number): Random {
  let state = (start ^ 0x5deece6) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

interface Options {
  readonly targets: readonly string[];
  readonly seed: number;
  readonly seconds: number;
  readonly kills: number;
  readonly runtime: string;
}

function options(args: readonly string[]): Options {
  const all = ['tar', 'registry', ...Object.keys(readers)];
  const known = [...all, 'crash'];
  const text = (name: string, fallback: string): string => {
    const at = args.indexOf(name);
    return at < 0 ? fallback : (args[at + 1] ?? '');
  };
  const value = (name: string, fallback: number): number => Number(text(name, `${fallback}`));
  const [seed, seconds, kills] = [
    value('--seed', Date.now() % 1_000_000),
    value('--seconds', 60),
    value('--kills', 1000),
  ];
  const runtime = text('--runtime', 'runc');
  const asked = args.filter((each, i) => !each.startsWith('--') && !(args[i - 1] ?? '').startsWith('--'));
  const isRight =
    asked.every((each) => known.includes(each)) &&
    Number.isSafeInteger(seed) &&
    seconds > 0 &&
    kills > 0 &&
    ['runc', 'crun'].includes(runtime);
  if (!isRight || (asked.includes('crash') && asked.length > 1)) {
    console.error(
      `usage: npm run fuzz -- [${all.join('|')}]… [--seed N] [--seconds S]\n` +
        '       npm run fuzz -- crash [--seed N] [--kills N] [--runtime runc|crun]',
    );
    process.exit(2);
  }
  return { targets: asked.length > 0 ? asked : all, seed, seconds, kills, runtime };
}
