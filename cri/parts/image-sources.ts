/** Where images come from, who must have signed them, and who we are to registries: as a configuration says it. */
import { createHash } from 'node:crypto';
import { explain } from '../../pkg/base/errors.ts';
import { ensureDir, readBounded } from '../../pkg/base/files.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type Op, withTimeout } from '../../pkg/base/op.ts';
import type { Change, Config } from '../../pkg/config/index.ts';
import {
  defaultAuthFiles,
  defaultTrustOptions,
  ImageTrust,
  NodeCredentials,
  type PolicyOptions,
  RegistryPolicy,
} from '../../pkg/image/index.ts';
import { capture, inheritedEnv } from '../../pkg/sys/index.ts';
import { gpgvIn } from '../gpgv.ts';
import type { Taken } from '../reload.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** Digits of a digest that tell one content from another, for people. */
const DIGEST_DIGITS = 12;

/** The three that a store asks; each reads its files when it is asked. */
export class ImageSources {
  readonly registries: RegistryPolicy;
  readonly trust: ImageTrust;
  readonly credentials: NodeCredentials;
  readonly #environment: Environment;
  #seen: Promise<Content> | undefined;

  constructor(config: Config, environment: Environment) {
    this.#environment = environment;
    this.registries = new RegistryPolicy(registriesBy(config, environment));
    this.trust = new ImageTrust(trustBy(config, environment));
    this.credentials = new NodeCredentials(credentialsBy(config, environment));
  }

  /** Makes the directory into which a credential provider writes, as CRI-O does. */
  async makeDirectory(op: Op, { image }: Config): Promise<void> {
    await ensureDir(image.namespacedAuthDir, 0o755).catch((cause: unknown) => {
      op.log.warn('the namespaced_auth_dir cannot be made, ignoring', {
        path: image.namespacedAuthDir,
        cause: explain(cause),
      });
    });
  }

  /** Remembers what files hold, once: a change is told by it. What is wrong with them is in the log. */
  remember(op: Op): Promise<Content> {
    this.#seen ??= contentOf(this.registries, this.trust).catch((cause: unknown) => {
      op.log.error('images cannot be pulled until this is mended', { cause: explain(cause) });
      return new Map();
    });
    return this.#seen;
  }

  /**
   * Makes a change ready, having tried it: registries.conf and policy.json are read at each pull anyway, and here an
   * operator hears what is wrong with them. @throws as RegistryPolicy.refresh and ImageTrust.policyFile.
   */
  async take(op: Op, config: Config): Promise<Taken> {
    const registries = registriesBy(config, this.#environment);
    const trust = trustBy(config, this.#environment);
    const before = await this.remember(op);
    const tried = new RegistryPolicy(registries);
    await tried.refresh(op);
    const fresh = await contentOf(tried, new ImageTrust(trust));
    return {
      commit: () => {
        this.registries.use(registries);
        this.trust.use(trust);
        this.credentials.use(credentialsBy(config, this.#environment));
        this.#seen = Promise.resolve(fresh);
      },
      content: changesOf(before, fresh),
    };
  }
}

/** What is in the files that nobody names a key for, by what they are. */
type Content = ReadonlyMap<'registries' | 'signature policy', string>;

async function contentOf(registries: RegistryPolicy, trust: ImageTrust): Promise<Content> {
  const policy = await trust.policyFile();
  return new Map([
    ['registries', await fingerprint(await registries.files())],
    ['signature policy', await fingerprint(policy === undefined ? [] : [policy])],
  ]);
}

/** Paths, and a digest over what is in them: enough to see that it changed. */
async function fingerprint(paths: readonly string[]): Promise<string> {
  if (paths.length === 0) return 'none';
  const hash = createHash('sha256');
  for (const path of paths) hash.update(await readBounded(path, limits.configFileBytes));
  return `${paths.join(' ')} sha256:${hash.digest('hex').slice(0, DIGEST_DIGITS)}`;
}

function changesOf(before: Content, after: Content): readonly Change[] {
  return [...after].flatMap(([key, fresh]) => {
    const old = before.get(key) ?? 'none';
    return old === fresh ? [] : [{ key, before: old, after: fresh }];
  });
}

/** Where registries.conf is: a path that the configuration names wins over the one of the environment. */
function registriesBy({ image }: Config, environment: Environment): Partial<PolicyOptions> {
  const { registriesConf, registriesConfDir } = image;
  return {
    shortNames: image.shortNameMode,
    environment: registriesConf === '' ? environment : { ...environment, CONTAINERS_REGISTRIES_CONF: '' },
    ...(registriesConf === '' ? {} : { registriesConf }),
    ...(registriesConfDir === '' ? {} : { registriesConfDir }),
  };
}

function trustBy(
  { image, storage }: Config,
  environment: Environment,
): NonNullable<ConstructorParameters<typeof ImageTrust>[0]> {
  return {
    ...defaultTrustOptions(environment),
    signaturePolicy: image.signaturePolicy,
    signaturePolicyDir: image.signaturePolicyDir,
    runGpgv: gpgvIn(storage.runroot),
  };
}

function credentialsBy({ image }: Config, environment: Environment): ConstructorParameters<typeof NodeCredentials>[0] {
  return {
    globalAuthFile: image.globalAuthFile || undefined,
    authFiles: defaultAuthFiles(environment),
    namespacedAuthDir: image.namespacedAuthDir || undefined,
    runHelper,
  };
}

async function runHelper(
  op: Op,
  helper: string,
  argument: string,
  input: string,
): Promise<{ readonly exitCode: number; readonly stdout: string }> {
  const { exitCode, stdout } = await capture(withTimeout(op, limits.runtimeCommandMs), {
    argv: [helper, argument],
    env: inheritedEnv(),
    stdin: input,
    stdoutMax: limits.configFileBytes,
    stderrMax: limits.commandErrorBytes,
  });
  return { exitCode, stdout: stdout.toString('utf8') };
}
