import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { codeOfErrno, errnoBehind, errnoName, systemError } from './addon.ts';

const failure = (errno: number, message: string): Error =>
  Object.assign(new Error(message), { errno, syscall: 'mount' });

describe('systemError', () => {
  it('gives every errno of the table its code, and the rest Internal', () => {
    const codes = [
      'EINVAL',
      'ENOENT',
      'EEXIST',
      'EBUSY',
      'ENOTEMPTY',
      'EACCES',
      'EPERM',
      'ENOSPC',
      'EDQUOT',
      'ENOMEM',
      'EMFILE',
      'ENFILE',
      'ECONNREFUSED',
      'ETIMEDOUT',
      'ENOSYS',
      'EOPNOTSUPP',
      'EIO',
    ].map(codeOfErrno);
    assert.deepEqual(codes, [
      'InvalidArgument',
      'NotFound',
      'AlreadyExists',
      'FailedPrecondition',
      'FailedPrecondition',
      'PermissionDenied',
      'PermissionDenied',
      'ResourceExhausted',
      'ResourceExhausted',
      'ResourceExhausted',
      'ResourceExhausted',
      'ResourceExhausted',
      'Unavailable',
      'DeadlineExceeded',
      'Unimplemented',
      'Unimplemented',
      'Internal',
    ]);
  });

  it('says what was done, which call failed and why', () => {
    const error = systemError(failure(2, 'mount: No such file or directory'), 'mount overlay on /x');
    assert.instanceOf(error, RuntimeError);
    assert.equal(error.code, 'NotFound');
    assert.equal(error.message, 'mount overlay on /x: mount: No such file or directory (ENOENT)');
    assert.equal(errnoBehind(error), 'ENOENT');
    assert.equal(errnoBehind(new Error('outer', { cause: error })), 'ENOENT');
  });

  it('says what to do about descriptors that run out (K17)', () => {
    const error = systemError(failure(24, 'pipe2: Too many open files'), 'make a pipe') as RuntimeError;
    assert.equal(error.code, 'ResourceExhausted');
    assert.equal(error.message, 'make a pipe: pipe2: Too many open files (EMFILE); raise LimitNOFILE');
  });

  it("takes Node's own errors, whose numbers are negative", () => {
    const error = systemError(
      Object.assign(new Error('ENOSPC: no space left on device, write'), {
        errno: -28,
        code: 'ENOSPC',
        syscall: 'write',
      }),
      'write record',
    );
    assert.deepEqual(
      [(error as RuntimeError).code, (error as RuntimeError).message],
      ['ResourceExhausted', 'write record: ENOSPC: no space left on device, write'],
    );
  });

  it('passes what is no system error', () => {
    const ours = new RuntimeError('DataLoss', 'x');
    assert.equal(systemError(ours, 'y'), ours);
    const bug = new TypeError('bug');
    assert.equal(systemError(bug, 'y'), bug);
    assert.isUndefined(errnoBehind(bug));
  });

  it('names numbers that Node does not know', () => {
    assert.deepEqual([errnoName(11), errnoName(95), errnoName(9999)], ['EAGAIN', 'EOPNOTSUPP', 'E9999']);
  });
});
