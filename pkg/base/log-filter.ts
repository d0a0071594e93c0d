/** `log_filter`: which messages are written. What varies is in the fields, which are not asked. */
import { explain, RuntimeError } from './errors.ts';
import { goPattern } from './go-pattern.ts';
import { quote } from './ids.ts';

/** True for the messages that are wanted. */
export type LogFilter = (message: string) => boolean;

/**
 * A filter from an operator's regular expression, `undefined` for '', in Go's syntax, as CRI-O reads this key.
 * @throws InvalidArgument if it is no regular expression.
 */
export function logFilter(pattern: string): LogFilter | undefined {
  if (pattern === '') return undefined;
  try {
    const wanted = goPattern(pattern);
    return (message) => wanted.test(message);
  } catch (cause) {
    const message = `log_filter ${quote(pattern)} is no regular expression of Go's: ${explain(cause)}`;
    throw new RuntimeError('InvalidArgument', message, { cause });
  }
}
