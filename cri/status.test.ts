import { readFileSync } from 'node:fs';
import { assert } from 'chai';
import { type ErrorCode, RuntimeError, wrap } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { grpcCodeName, grpcCodes, statusOf } from './status.ts';

const table: readonly (readonly [code: ErrorCode, grpc: number, name: string])[] = [
  ['InvalidArgument', 3, 'INVALID_ARGUMENT'],
  ['NotFound', 5, 'NOT_FOUND'],
  ['AlreadyExists', 6, 'ALREADY_EXISTS'],
  ['FailedPrecondition', 9, 'FAILED_PRECONDITION'],
  ['PermissionDenied', 7, 'PERMISSION_DENIED'],
  ['Unauthenticated', 16, 'UNAUTHENTICATED'],
  ['ResourceExhausted', 8, 'RESOURCE_EXHAUSTED'],
  ['Aborted', 10, 'ABORTED'],
  ['Unavailable', 14, 'UNAVAILABLE'],
  ['DeadlineExceeded', 4, 'DEADLINE_EXCEEDED'],
  ['Cancelled', 1, 'CANCELLED'],
  ['Unimplemented', 12, 'UNIMPLEMENTED'],
  ['DataLoss', 15, 'DATA_LOSS'],
  ['Internal', 13, 'INTERNAL'],
];

describe('cri/status', () => {
  for (const [code, grpc, name] of table) {
    it(`${code} is ${grpc} ${name}, and docs/ERRORS.md says so`, () => {
      assert.deepEqual(statusOf(new RuntimeError(code, 'what failed')), { code: grpc, details: 'what failed' });
      assert.equal(grpcCodeName(grpc), code);
      assert.include(
        readFileSync(new URL('../docs/ERRORS.md', import.meta.url), 'utf8'),
        `| ${code} | ${grpc} ${name} |`,
      );
    });
  }

  it('has a row for every code', () => {
    assert.sameMembers([...table.map(([code]) => code), 'Ok', 'Unknown'], Object.keys(grpcCodes));
    assert.equal(grpcCodeName(11), 'Code11');
  });

  for (const reason of [
    'RegistryUnavailable',
    'SignatureValidationFailed',
    'RROUnsupported',
    'ImageVolumeMountFailed',
  ] as const) {
    it(`${reason} leaves as UNKNOWN with the constant in front, where the kubelet looks for it`, () => {
      const inner = new RuntimeError('Unavailable', 'connect to reg.example:443', {
        reason,
        cause: new Error('ECONNREFUSED'),
      });
      const expected = { code: 2, details: `${reason}: pull: connect to reg.example:443: ECONNREFUSED` };
      assert.deepEqual(statusOf(wrap('pull', inner)), expected);
      assert.deepEqual(statusOf(new RuntimeError('Internal', 'pull', { cause: inner })), expected);
      assert.equal(
        statusOf(new RuntimeError('Unavailable', `${reason}: once is enough`, { reason })).details,
        `${reason}: once is enough`,
      );
    });
  }

  it('tells the chain of causes', () => {
    const error = new RuntimeError('Internal', 'create container', {
      cause: new AggregateError([new Error('first'), new Error('second')], 'two things'),
    });
    assert.deepEqual(statusOf(error), { code: 13, details: 'create container: two things: first; second' });
  });

  it('knows a full machine by its errno, and takes any other stray error for a bug', () => {
    for (const errno of ['ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE', 'ENFILE'])
      assert.equal(statusOf(Object.assign(new Error('write'), { code: errno })).code, 8);
    assert.equal(statusOf(Object.assign(new Error('open'), { code: 'ENOENT' })).code, 13);
    for (const stray of [new TypeError('x is undefined'), 'text', undefined, null, { code: 'EMFILES' }, Symbol('s')])
      assert.equal(statusOf(stray).code, 13);
  });

  it('says what is full and what to do, however deep below it was found (K17)', () => {
    const deep = Object.assign(new Error("EMFILE: too many open files, open '/x'"), { code: 'EMFILE' });
    const told = "EMFILE: too many open files, open '/x': too many open files; raise LimitNOFILE";
    assert.deepEqual(statusOf(deep), { code: 8, details: told });
    const wrapped = new RuntimeError('Internal', 'cannot write /y', { cause: new Error('later', { cause: deep }) });
    assert.deepEqual(statusOf(wrapped), { code: 8, details: `cannot write /y: later: ${told}` });
    const known = new RuntimeError('NotFound', 'gone; raise LimitNOFILE', { cause: deep });
    assert.equal(statusOf(known).code, 5);
    assert.notMatch(statusOf(known).details, /LimitNOFILE.*LimitNOFILE/);
  });

  it('bounds the text and keeps both ends', () => {
    const { details } = statusOf(new RuntimeError('Internal', `HEAD${'é'.repeat(100_000)}TAIL`));
    assert.isAtMost(details.length, limits.statusMessageChars + 3);
    assert.match(details, /^HEADé+ … é+TAIL$/);
  });

  it('is safe for the header that carries it, wherever the cut falls', () => {
    for (let shift = 0; shift < 4; shift++)
      assert.isString(
        encodeURI(statusOf(new RuntimeError('Internal', `${'x'.repeat(shift)}${'🙂'.repeat(10_000)}`)).details),
      );
    assert.equal(statusOf(new RuntimeError('Internal', 'a\ud800b\nc%')).details, 'a\ufffdb\nc%');
  });
});
