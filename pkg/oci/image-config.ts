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
  const user = textOf(config, 'User', WHAT);
  const [env, entrypoint, cmd] = [
    textsOf(config, 'Env', WHAT),
    textsOf(config, 'Entrypoint', WHAT),
    textsOf(config, 'Cmd', WHAT),
  ];
  const process = [...env, ...entrypoint, ...cmd];
  const volumes = Object.keys(objectOf(config, 'Volumes', WHAT) ?? {});
  const labels = textMapOf(config, 'Labels', WHAT);
  const exposedPorts = Object.keys(objectOf(config, 'ExposedPorts', WHAT) ?? {});
  // Each of these is work for every container, or memory for every image.
  atMost(limits.imageUserBytes, bytesOf([user]), 'has a User of', 'bytes');
  atMost(limits.imageVolumesCount, volumes.length, 'declares', 'VOLUMEs');
  atMost(limits.imageProcessCount, process.length, 'has', 'entries in Env, Entrypoint and Cmd');
  atMost(limits.imageProcessBytes, bytesOf(process), 'has', 'bytes in Env, Entrypoint and Cmd');
  atMost(limits.imageLabelsBytes, bytesOf(Object.entries(labels).flat()), 'has', 'bytes of labels');
  atMost(limits.imagePortsCount, exposedPorts.length, 'exposes', 'ports');
  return {
    architecture: normalizePlatform(os, architecture, '').architecture,
    os: os.toLowerCase(),
    user,
    env,
    entrypoint,
    cmd,
    volumes,
    workingDir: textOf(config, 'WorkingDir', WHAT),
    labels,
    stopSignal: textOf(config, 'StopSignal', WHAT),
    exposedPorts,
    diffIds: readDiffIds(document),
  };
}

/** @throws ResourceExhausted for more than `max`. */
function atMost(max: number, count: number, verb: string, unit: string): void {
  if (count > max)
    throw new RuntimeError(
      'ResourceExhausted',
      `${WHAT} ${verb} ${count} ${unit}, at most ${max} are taken; the image must be built with fewer`,
    );
}

function bytesOf(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
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
