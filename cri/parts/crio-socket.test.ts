import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { FakeLogger } from '../fake-server.ts';
import { listenAsCrio } from './crio-socket.ts';

describe('the socket of CRI-O', () => {
  let home = '';
  beforeEach(() => (home = mkdtempSync(join(tmpdir(), 'berth-crio-'))));
  afterEach(() => rmSync(home, { recursive: true, force: true }));

  it('is served beside ours, in a directory that is made', async () => {
    const log = new FakeLogger();
    const places: string[] = [];
    const crioSocket = join(home, 'crio/crio.sock');
    const server = { listen: async (path: string) => void places.push(path) };
    await listenAsCrio(server, { listen: join(home, 'berth.sock'), crioSocket, log });
    assert.deepEqual(places, [crioSocket]);
    assert.deepInclude(log.lines, {
      level: 'info',
      message: 'serving at the socket of CRI-O too, where cAdvisor asks for labels',
      path: crioSocket,
    });
  });

  it('is left alone where it is ours anyway, by whatever path', async () => {
    mkdirSync(join(home, 'run/crio'), { recursive: true });
    mkdirSync(join(home, 'var'));
    symlinkSync('../run', join(home, 'var/run'));
    const log = new FakeLogger();
    const server = { listen: () => Promise.reject(new Error('it was tried')) };
    const [listen, crioSocket] = [join(home, 'run/crio/crio.sock'), join(home, 'var/run/crio/crio.sock')];
    await listenAsCrio(server, { listen, crioSocket, log });
    assert.deepEqual(log.lines, []);
  });

  it('is somebody else’s: the daemon serves all the same, and says what is missing and how to have it', async () => {
    const log = new FakeLogger();
    const crioSocket = join(home, 'crio.sock');
    const server = { listen: () => Promise.reject(new RuntimeError('FailedPrecondition', 'socket is in use')) };
    await listenAsCrio(server, { listen: '/run/berth.sock', crioSocket, log });
    assert.lengthOf(log.lines, 1);
    assert.include(log.lines[0], { level: 'warn', path: crioSocket });
    assert.match(String(log.lines[0]?.message), /no labels of containers.*crio_socket = "none"/);
    assert.match(String(log.lines[0]?.['cause']), /in use/);
  });
});
