/** `berth completion`: what shells need to complete a command line, made from the commands as they are. */
import { Argument, type Command } from 'commander';
import type { Screen } from './output.ts';
import { type CommandShape, everyCommand, type OptionShape, shapeOf } from './shape.ts';

/** Shells that there is a script for. */
export type Shell = 'bash' | 'zsh' | 'fish';

const SCRIPTS: Readonly<Record<Shell, (shape: CommandShape) => string>> = { bash, zsh, fish };
/** What the program is called: its own name, and that of the program whose place it takes. */
const NAMES = 'berth crio';

/** Adds `completion`. */
export function addCompletion(program: Command, { screen }: { readonly screen: Screen }): void {
  program
    .command('completion')
    .alias('complete')
    .description('print a script with which a shell completes the commands: source <(berth completion bash)')
    .addArgument(new Argument('[shell]').choices(Object.keys(SCRIPTS)).default('bash'))
    .action((shell: Shell) => screen.write(completionScript(shell, shapeOf(program))));
}

/** PURE. The script for one shell. */
export function completionScript(shell: Shell, shape: CommandShape): string {
  return SCRIPTS[shell](shape);
}

/** What `case` compares with: the words that lead to a command, a blank before each. */
function at(path: readonly string[]): string {
  return quoted(path.map((word) => ` ${word}`).join(''));
}

/** The words that lead deeper, for `case`; a shell that has seen them knows where it is. */
function steps(shape: CommandShape): string {
  return everyCommand(shape)
    .flatMap(({ path }) => (path.length === 0 ? [] : [at(path)]))
    .join('|');
}

/** An option whose next word is its value, for `case`, and what that value may be. */
function valued(shape: CommandShape): { readonly pattern: string; readonly choices: readonly string[] }[] {
  return everyCommand(shape).flatMap(({ path, shape: { options } }) =>
    options
      .filter(({ value }) => value.startsWith('<'))
      .map((option) => ({
        pattern: spellings(option)
          .map((each) => `${at(path)}${quoted(` ${each}`)}`)
          .join('|'),
        choices: option.choices,
      })),
  );
}

/** All of those, of which a value may be called as a command is: `--log-level debug`. */
function takers(shape: CommandShape): string {
  return valued(shape)
    .map(({ pattern }) => pattern)
    .join('|');
}

function bash(shape: CommandShape): string {
  const cases = everyCommand(shape).map(({ path, shape: { options, commands } }) => {
    const words = [...commands.map(({ name }) => name), ...options.flatMap(spellings)];
    return `    ${at(path)}) words=${quoted(words.join(' '))} ;;`;
  });
  const values = valued(shape).map(({ pattern, choices }) => `    ${pattern}) words=${quoted(choices.join(' '))} ;;`);
  return `# bash completion of Berth, made by: berth completion bash
_berth() {
  local current=\${COMP_WORDS[COMP_CWORD]} path='' words at
  for ((at = 1; at < COMP_CWORD; at++)); do
    case "$path \${COMP_WORDS[at - 1]}" in
    ${takers(shape)}) continue ;;
    esac
    case "$path \${COMP_WORDS[at]}" in
    ${steps(shape)}) path="$path \${COMP_WORDS[at]}" ;;
    esac
  done
  case $path in
${cases.join('\n')}
  esac
  # The value of an option is one of its words, or a file.
  case "$path \${COMP_WORDS[COMP_CWORD - 1]}" in
${values.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _berth ${NAMES}
`;
}

function zsh(shape: CommandShape): string {
  const cases = everyCommand(shape).map(({ path, shape: { options, commands } }) => {
    const described = (words: readonly string[], text: string): string[] =>
      words.map((word) => quoted(`${word}:${firstSentence(text)}`));
    const below = commands.flatMap(({ name, description }) => described([name], description));
    const own = options.flatMap((option) => described(spellings(option), option.description));
    return `    ${at(path)}) commands=(${below.join(' ')}) options=(${own.join(' ')}) ;;`;
  });
  return `#compdef ${NAMES}
# zsh completion of Berth, made by: berth completion zsh
_berth() {
  local at='' word before=''
  local -a commands options
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$at $before" in
    ${takers(shape)}) before=''; continue ;;
    esac
    before=$word
    case "$at $word" in
    ${steps(shape)}) at="$at $word" ;;
    esac
  done
  case $at in
${cases.join('\n')}
  esac
  if [[ $PREFIX == -* ]]; then
    _describe -o option options
  elif (( $#commands )); then
    _describe command commands
  else
    _files
  fi
}
if [ "$funcstack[1]" = _berth ]; then _berth "$@"; else compdef _berth ${NAMES}; fi
`;
}

function fish(shape: CommandShape): string {
  const lines = everyCommand(shape).flatMap(({ path, shape: { options, commands } }) => {
    const condition = quoted(`test "$(__berth_at)" = "${path.map((word) => ` ${word}`).join('')}"`);
    const line = (...words: string[]): string => ['complete', '-c', 'berth', '-n', condition, ...words].join(' ');
    return [
      ...commands.map(({ name, description }) =>
        line('-f', '-a', quoted(name), '-d', quoted(firstSentence(description))),
      ),
      ...options.map(({ short, long, value, description, choices }) =>
        line(
          ...(short === '' ? [] : ['-s', short.slice(1)]),
          ...['-l', long.slice(2)],
          ...(value.startsWith('<') ? ['-r'] : []),
          ...(choices.length === 0 ? [] : ['-f', '-a', quoted(choices.join(' '))]),
          ...['-d', quoted(firstSentence(description))],
        ),
      ),
    ];
  });
  return `# fish completion of Berth, made by: berth completion fish
function __berth_at
    set -l at ''
    set -l before ''
    for word in (commandline -opc)[2..]
        switch "$at $before"
            case ${takers(shape).replaceAll('|', ' ')}
                set before ''
                continue
        end
        set before $word
        switch "$at $word"
            case ${everyCommand(shape)
              .flatMap(({ path }) => (path.length === 0 ? [] : [at(path)]))
              .join(' ')}
                set at "$at $word"
        end
    end
    echo "$at"
end
${lines.join('\n')}
complete -c crio -w berth
`;
}

function spellings({ short, long }: OptionShape): string[] {
  return [short, long].filter((each) => each !== '');
}

/** For all three shells; in ours there are no quotes but those that English has. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** What there is room for beside a word. */
function firstSentence(text: string): string {
  return text.replace(/(\. |: |; ).*$/, '').replace(/[.:]$/, '');
}
