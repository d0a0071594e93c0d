/** What is installed where: the tree that both the Debian package and the tarball are made of. */
import { join } from 'node:path';
import { completionScript, type Shell } from '../../cri/commands/completion.ts';
import { shapeOf } from '../../cri/commands/shape.ts';
import { programOf } from '../../cri/command-line.ts';
import { copyright } from './copyright.ts';
import { manual } from './manual.ts';
import type { Programs } from './programs.ts';
import type { Tree } from './tree.ts';

/** What a package is called, and when it was made, in seconds since the epoch. */
export interface Release {
  readonly version: string;
  readonly epoch: number;
}

const MS_PER_S = 1_000;

const CONTRIB = join(import.meta.dirname, '../../contrib');
/** Where Berth has its own programs; the launcher finds the rest from there. */
const HOME = 'usr/lib/berth';
/** Links of /usr/bin to what is at home. `crio` is for the scripts of a node that had CRI-O. */
const COMMANDS: readonly (readonly [name: string, program: string])[] = [
  ['berth', 'berth'],
  ['crio', 'berth'],
  ['pinns', 'pinns'],
];
/** What CRI-O once had a program for. */
const CRIO_STATUS = '#!/bin/sh\nexec "${0%/*}/berth" status "$@"\n';

/** Puts everything into `tree`. */
export function stage(tree: Tree, { directory, nodeLicense }: Programs, release: Release): void {
  tree.copyAll(HOME, directory);
  for (const [name, program] of COMMANDS) tree.link(`usr/bin/${name}`, `../lib/berth/bin/${program}`);
  tree.write('usr/bin/crio-status', CRIO_STATUS, 0o755);
  configure(tree);
  document(tree, release);
  tree.write('usr/share/doc/berth/copyright', copyright());
  tree.copy('usr/share/doc/berth/LICENSE.node', nodeLicense);
}

/** Files that the node's other programs read. */
function configure(tree: Tree): void {
  for (const unit of ['berth.service', 'crio-wipe.service'])
    tree.copy(`usr/lib/systemd/system/${unit}`, join(CONTRIB, 'systemd', unit));
  tree.copy('usr/lib/sysctl.d/60-berth.conf', join(CONTRIB, 'sysctl.d/60-berth.conf'));
  tree.copy('usr/lib/modules-load.d/berth.conf', join(CONTRIB, 'modules-load.d/berth.conf'));
  tree.copy('etc/berth/berth.conf', join(CONTRIB, 'systemd/berth.conf'));
  tree.directory('etc/berth/berth.conf.d');
  tree.write('etc/default/berth', '# Flags of the daemon, as `berth --help` lists them.\nBERTH_OPTIONS=""\n');
  const network = '11-berth-ipv4-bridge.conflist';
  tree.copy(`etc/cni/net.d/${network}`, join(CONTRIB, 'cni', network));
  for (const example of ['crictl.yaml', 'grafana/berth.json', 'prometheus/berth.rules.yaml'])
    tree.copy(`usr/share/doc/berth/examples/${example}`, join(CONTRIB, example));
}

/** Manual pages, and what shells complete with. */
function document(tree: Tree, { version, epoch }: Release): void {
  const nobody = (): never => {
    throw new Error('this program is looked at only');
  };
  const shape = shapeOf(programOf({ version, serve: nobody, configuration: nobody }));
  const date = new Date(epoch * MS_PER_S).toISOString().slice(0, 'yyyy-mm-dd'.length);
  for (const { path, text } of manual(shape, { version, date })) tree.gzip(`usr/share/man/${path}`, text);
  for (const name of ['crio', 'crio-status']) tree.link(`usr/share/man/man8/${name}.8.gz`, 'berth.8.gz');
  const completions: readonly (readonly [shell: Shell, path: string])[] = [
    ['bash', 'bash-completion/completions/berth'],
    ['zsh', 'zsh/vendor-completions/_berth'],
    ['fish', 'fish/vendor_completions.d/berth.fish'],
  ];
  for (const [shell, path] of completions) tree.write(`usr/share/${path}`, completionScript(shell, shape));
  tree.link('usr/share/bash-completion/completions/crio', 'berth');
}
