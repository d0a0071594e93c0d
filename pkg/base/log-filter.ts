/**
 * `log_filter`: which messages are written. A message is one of some hundred constants, so each is judged once; what
 * varies is in the fields, which are not asked.
 */
import { createContext, Script } from 'node:vm';
import { RuntimeError } from './errors.ts';
import { quote } from './ids.ts';
import { limits } from './limits.ts';

/** True for the messages that are wanted. */
export type LogFilter = (message: string) => boolean;

/**
 * A filter from an operator's regular expression, `undefined` for ''. The flags that Go takes in front are taken, too:
 * `(?i)error`. An expression that backtracks for ever is given `patienceMs` for a message, which is written then.
 * @throws InvalidArgument if it is no regular expression.
 */
export function logFilter(pattern: string, patienceMs: number = limits.logFilterMs): LogFilter | undefined {
  if (pattern === '') return undefined;
  const judge = patiently(compile(pattern), patienceMs);
  const verdicts = new Map<string, boolean | 'late'>();
  return (message) => {
    const known = verdicts.get(message);
    if (typeof known === 'boolean') return known;
    const verdict = judge(message);
    // Late once may be a busy node; late twice is the expression. What a few messages have that varies, does not pay.
    if (known !== undefined || verdicts.size < limits.logMessagesCount)
      verdicts.set(message, verdict === 'late' && known === 'late' ? true : verdict);
    return verdict === 'late' || verdict;
  };
}

function compile(pattern: string): RegExp {
  const [, flags = '', rest = pattern] = /^\(\?([ims]+)\)([^]*)$/.exec(pattern) ?? [];
  try {
    return new RegExp(rest, flags);
  } catch (cause) {
    throw new RuntimeError('InvalidArgument', `log_filter ${quote(pattern)} is no regular expression`, { cause });
  }
}

function patiently(expression: RegExp, patienceMs: number): (message: string) => boolean | 'late' {
  const context = createContext({ expression, message: '' });
  const script = new Script('expression.test(message)');
  return (message) => {
    context['message'] = message;
    try {
      return script.runInContext(context, { timeout: patienceMs }) === true;
    } catch {
      return 'late';
    }
  };
}
