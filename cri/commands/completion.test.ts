import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { noFiles, loadConfig } from '../../pkg/config/index.ts';
import { programOf } from '../command-line.ts';
import { completionScript } from './completion.ts';
import { everyCommand, shapeOf } from './shape.ts';

const program = programOf({
  version: '0',
  serve: async () => {},
  configuration: () => loadConfig({ node: { systemdCgroups: false }, files: noFiles }),
});
const shape = shapeOf(program);

/** What bash offers for the last of these words. */
function offered(...words: readonly string[]): string[] {
  const script = `${completionScript('bash', shape)}
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _berth; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', script, 'bash', ...words], { encoding: 'utf8' })
    .trim()
    .split('\n');
}

describe('completion', () => {
  it('offers commands and flags first, and what a command takes behind it', () => {
    assert.deepEqual(offered('berth', 'ins'), ['inspect', 'inspectp', 'inspecti']);
    assert.include(offered('berth', '--log-l'), '--log-level');
    assert.deepEqual(offered('berth', '--log-level', 'debug', 'sta'), ['stats', 'status']);
    assert.includeMembers(offered('berth', 'status', ''), ['config', 'info', 'containers', '--socket']);
    assert.deepEqual(offered('berth', 'status', 'heap', '--f'), ['--file']);
  });

  it('offers the words that an option takes, and files where they are any', () => {
    assert.deepEqual(offered('berth', 'ps', '--state', 'r'), ['running']);
    assert.deepEqual(offered('berth', '--config', ''), ['']);
  });

  it('has every command in the scripts of all shells, and nothing that is hidden', () => {
    for (const shell of ['bash', 'zsh', 'fish'] as const) {
      const script = completionScript(shell, shape);
      for (const { path } of everyCommand(shape)) assert.include(script, path.join(' '), shell);
      assert.notInclude(script, 'profile-port', shell);
    }
  });

  it('is bash where no shell is named, and has the name that CRI-O gives it', async () => {
    const written: string[] = [];
    const write = process.stdout.write;
    process.stdout.write = (text: string | Uint8Array) => written.push(String(text)) > 0;
    try {
      await program.parseAsync(['complete'], { from: 'user' });
    } finally {
      process.stdout.write = write;
    }
    assert.equal(written.join(''), completionScript('bash', shape));
  });
});
