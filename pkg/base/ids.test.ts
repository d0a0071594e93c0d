import { assert } from 'chai';
import { codeOf } from './errors.ts';
import {
  hexOf,
  isDigest,
  newContainerId,
  newSandboxId,
  parseChainId,
  parseContainerId,
  parseDigest,
  parseImageId,
  parseSandboxId,
  quote,
} from './ids.ts';

const HEX = 'ab'.repeat(32);

/** What is nearly an id; each would be a file name and a word of a command line. */
const NEARLY = ['', '.', '..', '/', HEX.slice(1), `${HEX}a`, HEX.toUpperCase(), `${HEX}\n`, `${HEX.slice(3)}../`];

describe('ids', () => {
  for (const parse of [parseSandboxId, parseContainerId])
    it(`are 64 hexadecimal characters and nothing else (${parse.name})`, () => {
      assert.equal(parse(HEX), HEX);
      for (const text of NEARLY) refuses(() => parse(text), text);
    });

  it('are made anew, and are ids', () => {
    assert.notEqual<string>(newSandboxId(), newContainerId());
    parseSandboxId(newSandboxId());
    parseContainerId(newContainerId());
  });
});

describe('digests', () => {
  it('are an algorithm that we know and as many hexadecimal characters as it gives (CVE-2024-3727)', () => {
    for (const text of [`sha256:${HEX}`, `sha512:${HEX}${HEX}`]) {
      assert.equal(parseDigest(text), text);
      assert.isTrue(isDigest(text));
    }
    const nearly = [
      ...NEARLY.map((hex) => `sha256:${hex}`),
      HEX,
      `:${HEX}`,
      `sha1:${HEX}`,
      `SHA256:${HEX}`,
      `sha512:${HEX}`,
      `sha256:sha256:${HEX}`,
      `sha256:../../../../etc/x`,
    ];
    for (const text of nearly) {
      refuses(() => parseDigest(text), text);
      assert.isFalse(isDigest(text), text);
    }
  });

  it('of images and chains are of sha256', () => {
    assert.equal<string>(parseImageId(`sha256:${HEX}`), parseChainId(`sha256:${HEX}`));
    for (const parse of [parseImageId, parseChainId]) refuses(() => parse(`sha512:${HEX}${HEX}`), parse.name);
  });

  it('have a half that is a file name', () => {
    assert.equal(hexOf(parseDigest(`sha256:${HEX}`)), HEX);
  });
});

describe('quoted text', () => {
  it('is one line, and short', () => {
    assert.equal(quote('a\n"b'), '"a\\n\\"b"');
    assert.equal(quote('x'.repeat(1_000_000)).length, 128 + 3);
  });
});

function refuses(parse: () => unknown, text: string): void {
  try {
    parse();
  } catch (error) {
    assert.equal(codeOf(error), 'InvalidArgument');
    return;
  }
  assert.fail(`takes ${JSON.stringify(text)}`);
}
