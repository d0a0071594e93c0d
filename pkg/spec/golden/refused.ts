import { RuntimeError } from '../../base/errors.ts';

/** For table tests: what becomes of a call, as `code: message` or `accepted`. */
export function outcome(run: () => unknown): string {
  try {
    run();
    return 'accepted';
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}${error.reason === undefined ? '' : ` ${error.reason}`}: ${error.message}`;
  }
}
