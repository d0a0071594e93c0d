/** Image configs (image-spec config.md), from bytes to types. */
import { RuntimeError } from '../base/errors.ts';
import { GoObject } from '../base/go.ts';
import { isDigest, quote } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { bad, objectOf, parseObject, textMapOf, textOf, textsOf } from './document.ts';
import { normalizePlatform } from './platform.ts';
import type { ImageConfig } from './spec-types.ts';

const WHAT = 'the image config';

/**
 * Reads an image config. Architecture and system come out in Go's names, '' where the image does not say.
 * @throws InvalidArgument for a damaged one; ResourceExhausted above a limit.
 */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  const document = parseObject(bytes, limits.imageConfigBytes, WHAT);
  const config = new GoObject(objectOf(document, 'config', WHAT) ?? {});
  const [os, architecture] = [textOf(document, 'os', WHAT), textOf(document, 'architecture', WHAT)];
  return {
    architecture: normalizePlatform(os, architecture, '').architecture,
    os: os.toLowerCase(),
    user: readUser(config),
    env: textsOf(config, 'Env', WHAT),
    entrypoint: textsOf(config, 'Entrypoint', WHAT),
    cmd: textsOf(config, 'Cmd', WHAT),
    volumes: Object.keys(objectOf(config, 'Volumes', WHAT) ?? {}),
    workingDir: textOf(config, 'WorkingDir', WHAT),
    labels: textMapOf(config, 'Labels', WHAT),
    stopSignal: textOf(config, 'StopSignal', WHAT),
    exposedPorts: Object.keys(objectOf(config, 'ExposedPorts', WHAT) ?? {}),
    diffIds: readDiffIds(document),
  };
}

function readUser(config: GoObject): string {
  const user = textOf(config, 'User', WHAT);
  if (Buffer.byteLength(user) > limits.imageUserBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `${WHAT} has a User of ${Buffer.byteLength(user)} bytes, at most ${limits.imageUserBytes} ` +
        'are taken; the image must be built with a shorter one',
    );
  return user;
}

function readDiffIds(document: GoObject): readonly Digest[] {
  const rootfs = GoObject.of(objectOf(document, 'rootfs', WHAT));
  // Its kind is written for Windows' sake, and by some not at all; what has no rootfs is a config of something else.
  if (rootfs === undefined || !['', 'layers'].includes(textOf(rootfs, 'type', WHAT)))
    throw bad(`${WHAT} has no rootfs of type "layers"`);
  return textsOf(rootfs, 'diff_ids', WHAT).map((text) => {
    if (!isDigest(text)) throw bad(`${WHAT} has a diff id that is no digest: ${quote(text)}`);
    return text;
  });
}
