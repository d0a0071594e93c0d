import { expect } from 'chai';
import { RuntimeError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { cancellable, failure, testOp } from '../fakes.ts';
import { nextStep, parseRetryAfter, RequestError, Tries } from './patience.ts';
import type { Form, Trouble } from './patience.ts';

const status = (code: number, retryAfterMs?: number): Trouble => ({ kind: 'status', status: code, retryAfterMs });
const shown = (trouble: Trouble, form: Form = 'plain', failures = 1, tries = 4): string => {
  const step = nextStep(trouble, form, failures, tries);
  return step.kind === 'give up' ? step.kind : `${step.form} in ${step.waitMs}`;
};

describe('image/registry/patience: nextStep', () => {
  it('asks again what may pass, later and later', () => {
    for (const trouble of [{ kind: 'line' } as const, status(500), status(502), status(504), status(408)])
      expect([1, 2, 3, 4].map((count) => shown(trouble, 'plain', count))).to.deep.equal([
        'plain in 250',
        'plain in 500',
        'plain in 1000',
        'give up',
      ]);
    for (const busy of [425, 429, 503])
      expect([1, 2, 3].map((count) => shown(status(busy), 'plain', count))).to.deep.equal([
        'plain in 1000',
        'plain in 2000',
        'plain in 4000',
      ]);
  });

  it('gives up at once what will not pass', () => {
    for (const code of [400, 401, 403, 404, 405, 410, 416, 451, 501, 505, 302, 204])
      expect(shown(status(code)), String(code)).to.equal('give up');
    expect([shown({ kind: 'trust' }), shown({ kind: 'part' })]).to.deep.equal(['give up', 'give up']);
  });

  it('waits as told, whatever the status, unless that is too long', () => {
    for (const code of [429, 503, 500, 408]) expect(shown(status(code, 6000)), String(code)).to.equal('plain in 6000');
    expect(shown(status(429, 0), 'plain', 3)).to.equal('plain in 0');
    expect(shown(status(429, limits.registryRetryAfterMs))).to.equal(`plain in ${limits.registryRetryAfterMs}`);
    expect(shown(status(429, limits.registryRetryAfterMs + 1))).to.equal('give up');
    expect(shown(status(404, 6000))).to.equal('give up');
  });

  it('leaves what we chose to add away where that may be what is wrong, even on the last try', () => {
    for (const code of [400, 403, 405, 416, 501, 505])
      expect(shown(status(code), 'ranged', 4), String(code)).to.equal('plain in 0');
    expect(shown({ kind: 'part' }, 'ranged', 4)).to.equal('plain in 0');
    expect([1, 2].map((count) => shown(status(500), 'ranged', count))).to.deep.equal(['ranged in 250', 'plain in 0']);
    for (const code of [401, 404]) expect(shown(status(code), 'ranged'), String(code)).to.equal('give up');
    for (const code of [408, 429, 503]) expect(shown(status(code), 'ranged')).to.match(/^ranged in /);
    expect(shown({ kind: 'line' }, 'ranged', 3)).to.equal('ranged in 1000');
  });
});

describe('image/registry/patience: Retry-After', () => {
  it('is seconds, a date, or a time since 1970', () => {
    const now = Date.UTC(2026, 10, 30, 12, 0, 0);
    const rows: readonly (readonly [text: string | undefined, date: string | undefined, ms: number | undefined])[] = [
      ['6', undefined, 6000],
      [' 0 ', undefined, 0],
      ['1.5', undefined, 1500],
      ['Mon, 30 Nov 2026 12:00:07 GMT', undefined, 7000],
      // The server's clock is its own.
      ['Tue, 01 Dec 2026 12:00:07 GMT', 'Tue, 01 Dec 2026 12:00:00 GMT', 7000],
      ['Mon, 30 Nov 2026 11:00:00 GMT', undefined, 0],
      [String(now / 1000 + 9), undefined, 9000],
      [String(now / 1000 - 9), undefined, 0],
      ['', undefined, undefined],
      [undefined, undefined, undefined],
      ['soon', undefined, undefined],
      ['-5', undefined, undefined],
      ['99999999999999', undefined, undefined],
    ];
    for (const [text, date, ms] of rows) expect(parseRetryAfter(text, date, now), text).to.equal(ms);
  });
});

describe('image/registry/patience: Tries', () => {
  const broke = (trouble: Trouble = { kind: 'line' }): RequestError =>
    new RequestError('Unavailable', 'it broke', trouble);
  const tries = (pauses: number[], count = 3, op = testOp()): Tries =>
    new Tries(op, { what: 'the thing', tries: count, form: 'ranged', pause: async (ms) => void pauses.push(ms) });

  it('ends with what was asked for before what went wrong, and as no reason to ask again', async () => {
    const pauses: number[] = [];
    let asked = 0;
    const error = await failure(
      tries(pauses).run(async () => {
        asked++;
        throw broke();
      }),
    );
    expect([error.message, error.reason, error instanceof RequestError]).to.deep.equal([
      'the thing: it broke',
      'RegistryUnavailable',
      false,
    ]);
    expect([asked, pauses]).to.deep.equal([3, [250, 500]]);
    const outer = tries(pauses).run(async () => Promise.reject(error));
    expect((await failure(outer)).message).to.equal('the thing: the thing: it broke');
  });

  it('counts from the beginning after progress, and does not count a change of form', async () => {
    const pauses: number[] = [];
    const made = tries(pauses, 2);
    await made.after(broke());
    made.progressed();
    await made.after(broke());
    await made.after(broke({ kind: 'part' }));
    expect([made.form, pauses]).to.deep.equal(['plain', [250, 250]]);
    expect((await failure(made.after(broke()))).message).to.equal('the thing: it broke');
  });

  it('keeps its form where the last request had none of it', async () => {
    const made = tries([]);
    await failure(made.after(broke({ kind: 'part' }), 'plain'));
    await made.after(broke(), 'plain');
    expect(made.form).to.equal('ranged');
  });

  it('passes on what is no failure of a request, and ends with its caller', async () => {
    const other = new RuntimeError('DataLoss', 'wrong');
    expect((await failure(tries([]).after(other))).message).to.equal('the thing: wrong');
    const caller = cancellable();
    const leaving = new Tries(caller.op, {
      what: 'the thing',
      tries: 3,
      form: 'plain',
      pause: async () => caller.cancel(),
    });
    expect((await failure(leaving.after(broke()))).code).to.equal('Cancelled');
  });
});
