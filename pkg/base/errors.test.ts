import { assert } from 'chai';
import { explain, RuntimeError } from './errors.ts';

describe('explain', () => {
  it('does not say again what several causes have said in the message', () => {
    const failed = [new RuntimeError('FailedPrecondition', 'no plugin'), new RuntimeError('Internal', 'no cgroup')];
    const all = failed.map(({ message }) => message).join('; ');
    const error = new RuntimeError('Internal', `not destroyed: ${all}`, { cause: new AggregateError(failed) });
    assert.equal(explain(error), 'not destroyed: no plugin; no cgroup');
  });

  it('says what several causes have to add', () => {
    const failed = [new Error('outer', { cause: new Error('inner') }), new Error('other')];
    const cause = new AggregateError(failed);
    assert.equal(explain(new Error('not done', { cause })), 'not done: outer: inner; other');
    assert.equal(explain(new AggregateError(failed, 'both')), 'both: outer: inner; other');
    assert.equal(explain(new AggregateError([])), 'AggregateError');
  });
});
