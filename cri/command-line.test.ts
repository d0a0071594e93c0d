import { assert } from 'chai';
import { argumentsOf, type FlagValues, flags, loadConfig, noFiles, readFlags } from '../pkg/config/index.ts';
import { programOf } from './command-line.ts';

describe('the command line', () => {
  /** What commander makes of it. */
  async function seen(argv: readonly string[]): Promise<FlagValues | undefined> {
    let given: FlagValues | undefined;
    const program = programOf({
      version: '1',
      serve: async (values) => void (given = { ...values }),
      configuration: (values) => loadConfig({ flags: values, node: { systemdCgroups: false }, files: noFiles }),
    });
    await program.parseAsync(argumentsOf(argv), { from: 'user' });
    return given;
  }

  const forms: readonly ((flag: (typeof flags)[number]) => readonly string[])[] = [
    ({ name, argument }) => (argument === 'none' ? [`--${name}`] : [`--${name}`, 'a,b']),
    ({ name, argument }) => (argument === 'none' ? [`-${name}=false`] : [`--${name}=a`, `-${name}`, '--x,b=c']),
    ({ name }) => [`--${name}=`],
  ];
  for (const form of forms)
    it(`of flags alone says the same with commander and without: ${form(flags[0]!).join(' ')}`, async () => {
      const line = flags.flatMap(form);
      assert.isAbove(Object.keys(readFlags(line) ?? {}).length, 100);
      assert.deepEqual(readFlags(line), await seen(line));
    });

  it('prints help, and says what is wrong', async () => {
    const program = programOf({
      version: '1',
      serve: async () => {},
      configuration: () => loadConfig({ node: { systemdCgroups: false }, files: noFiles }),
    });
    const written: string[] = [];
    program.configureOutput({
      writeOut: (text) => void written.push(text),
      writeErr: (text) => void written.push(text),
    });
    for (const [words, said] of [
      [['help'], 'Usage: berth'],
      [['--help'], '--log-level'],
      [['--version'], 'berth version 1\n'],
      [['-v'], 'berth version 1\n'],
      [['--nonsense'], "unknown option '--nonsense'"],
    ] as const) {
      await program.parseAsync(argumentsOf(words), { from: 'user' }).catch(() => undefined);
      assert.include(written.splice(0).join(''), said);
    }
  });
});
