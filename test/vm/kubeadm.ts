/** kubeadm as Kubernetes publishes it, built once from the Go proxy: some minutes of a processor. */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { made } from './cache.ts';

/** The release, and as which one the modules in its tree are published. */
const KUBERNETES = { version: '1.36.3', staging: '0.36.3' } as const;

/** A program that runs anywhere. @throws with the compiler's words. */
export async function kubeadm(): Promise<string> {
  return await made('kubeadm', [KUBERNETES], (draft) => {
    const reply = execFileSync('go', ['mod', 'download', '-json', `k8s.io/kubernetes@v${KUBERNETES.version}`], {
      encoding: 'utf8',
      cwd: tmpdir(),
    });
    const { Dir: directory } = JSON.parse(reply) as { readonly Dir: string };
    const scratch = mkdtempSync(join(tmpdir(), 'berth-kubeadm-'));
    try {
      build(directory, join(scratch, 'kubernetes'), draft);
    } finally {
      execFileSync('chmod', ['-R', 'u+w', scratch]);
      rmSync(scratch, { recursive: true });
    }
  });
}

function build(module: string, tree: string, to: string): void {
  cpSync(module, tree, { recursive: true, verbatimSymlinks: true });
  execFileSync('chmod', ['-R', 'u+w', tree]);
  // A module has the vendored packages and the workspace of its repository's root, and neither is whole in it.
  for (const each of ['vendor', 'go.work', 'go.work.sum']) rmSync(join(tree, each), { recursive: true, force: true });
  const file = join(tree, 'go.mod');
  const published = readFileSync(file, 'utf8').replace(
    /=> \.\/staging\/src\/(\S+)/g,
    (_, name: string) => `=> ${name} v${KUBERNETES.staging}`,
  );
  writeFileSync(file, published);
  const stamp = `-s -w -X k8s.io/component-base/version.gitVersion=v${KUBERNETES.version}`;
  // Without inlining and symbols it is built in half of the time.
  const flags = ['-mod=mod', '-trimpath', '-gcflags', 'all=-l -dwarf=false', '-ldflags', stamp];
  execFileSync('go', ['build', ...flags, '-o', to, './cmd/kubeadm'], {
    cwd: tree,
    env: { ...process.env, CGO_ENABLED: '0' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  chmodSync(to, 0o755);
}
