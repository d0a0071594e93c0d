import { expect } from 'chai';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RuntimeError } from '../../base/errors.ts';
import type { AuthConfig } from '../../cri-api/types.ts';
import { RecordingLog, testOp } from '../fakes.ts';
import { anonymous } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { defaultAuthFiles, NodeCredentials, requestCredentials } from './credentials.ts';

const none: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};
const b64 = (text: string): string => Buffer.from(text).toString('base64');
const password = (username: string, secret: string): Credentials => ({ kind: 'password', username, password: secret });

describe('image/registry/credentials: requests', () => {
  it('takes credentials in the order of CRI', () => {
    const all: AuthConfig = {
      ...none,
      username: 'u',
      password: 'p',
      auth: b64('a:b'),
      identityToken: 'it',
      registryToken: 'rt',
    };
    expect(requestCredentials(all)).to.deep.equal(password('u', 'p'));
    expect(requestCredentials({ ...all, username: '', password: '' })).to.deep.equal(password('a', 'b'));
    expect(requestCredentials({ ...none, identityToken: 'it', registryToken: 'rt' })).to.deep.equal({
      kind: 'identity',
      token: 'it',
    });
    expect(requestCredentials({ ...none, registryToken: 'rt' })).to.deep.equal({ kind: 'bearer', token: 'rt' });
    expect(requestCredentials(none)).to.equal(undefined);
    expect(requestCredentials(undefined)).to.equal(undefined);
  });
});

describe('image/registry/credentials: files', () => {
  let directory: string;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'auth-'))));
  afterEach(() => rm(directory, { recursive: true }));
  const write = async (name: string, value: unknown): Promise<string> => {
    await writeFile(join(directory, name), typeof value === 'string' ? value : JSON.stringify(value));
    return join(directory, name);
  };

  it('finds the most specific key, under every spelling of a host', async () => {
    const file = await write('auth.json', {
      auths: {
        'https://index.docker.io/v1/': { auth: b64('hub:1') },
        'reg.example:5000': { auth: b64('host:2') },
        'reg.example:5000/team': { auth: b64('team:3') },
        'reg.example:5000/team/app': { username: 'app', password: '4' },
        'token.example': { identitytoken: 'it', auth: b64('x:y') },
        empty: {},
      },
    });
    const node = new NodeCredentials({ authFiles: [join(directory, 'absent'), file] });
    const find = async (name: string): Promise<string> => {
      const found = await node.find(testOp(), name, undefined, []);
      return found.kind === 'password' ? `${found.username}:${found.password}` : found.kind;
    };
    expect(await find('docker.io/library/busybox')).to.equal('hub:1');
    expect(await find('reg.example:5000/other')).to.equal('host:2');
    expect(await find('reg.example:5000/team/x')).to.equal('team:3');
    expect(await find('reg.example:5000/team/app')).to.equal('app:4');
    expect(await find('reg.example:5000/teammates')).to.equal('host:2');
    expect(await find('token.example/x')).to.equal('identity');
    expect(await find('empty/x')).to.equal('none');
    expect(await find('reg.example/team')).to.equal('none');
  });

  it('takes the namespace’s file before the global one, and the global one instead of the others', async () => {
    const entry = (user: string): object => ({ auths: { 'a.example': { auth: b64(`${user}:x`) } } });
    const [own, shared, other] = [
      await write('1', entry('namespace')),
      await write('2', entry('global')),
      await write('3', entry('other')),
    ];
    const user = async (node: NodeCredentials, file?: string): Promise<unknown> => {
      const found = await node.find(testOp(), 'a.example/x', file, []);
      return found.kind === 'password' ? found.username : found.kind;
    };
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: shared }), own)).to.equal('namespace');
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: shared }))).to.equal('global');
    expect(await user(new NodeCredentials({ authFiles: [other], globalAuthFile: '' }))).to.equal('other');
  });

  it('goes on without what cannot be read: names it in a warning, and quotes nothing of it', async () => {
    const bad = await write('bad', '{"auths":{"a.example":{"auth":"SECRET"');
    const good = await write('good', {
      auths: { 'a.example': { auth: b64('u:p') }, 'b.example': { auth: 'SECRET!' } },
    });
    const log = new RecordingLog();
    const node = new NodeCredentials({ authFiles: [bad, good] });
    expect(await node.find(testOp(log), 'a.example/x', undefined, [])).to.deep.equal(password('u', 'p'));
    expect(log.full).to.deep.equal([
      'warn credentials cannot be read, going on without ' +
        `{"registry":"a.example","error":"${bad} is not valid JSON"}`,
    ]);
    expect(await node.find(testOp(log), 'b.example/x', bad, [])).to.deep.equal({
      kind: 'none',
      unread: [
        `${bad} is not valid JSON`,
        `${bad} is not valid JSON`,
        `${good}: the entry for "b.example" is not base64 of user:password`,
      ],
    });
    expect(log.full.join()).to.not.contain('SECRET');
  });

  it('asks helpers: of the host, of the store, of registries.conf', async () => {
    const asked: string[] = [];
    const file = await write('auth.json', {
      credHelpers: { 'a.example': 'one' },
      credsStore: 'two',
      auths: { 'b.example': { auth: b64('file:x') } },
    });
    const node = new NodeCredentials({
      authFiles: [file],
      runHelper: async (_op, program, argument, input) => {
        asked.push(`${program} ${argument} ${input}`);
        if (input === 'nothing.example') return { exitCode: 1, stdout: 'credentials not found' };
        return {
          exitCode: 0,
          stdout: JSON.stringify({
            ServerURL: input,
            Username: program.endsWith('one') ? '<token>' : 'u',
            Secret: 's',
          }),
        };
      },
    });
    expect(await node.find(testOp(), 'a.example/x', undefined, [])).to.deep.equal({ kind: 'identity', token: 's' });
    expect(await node.find(testOp(), 'b.example/x', undefined, [])).to.deep.equal(password('file', 'x'));
    expect(await node.find(testOp(), 'docker.io/library/x', undefined, [])).to.deep.equal(password('u', 's'));
    expect(await node.find(testOp(), 'nothing.example/x', undefined, ['containers-auth.json', 'three'])).to.deep.equal(
      anonymous,
    );
    expect(asked).to.deep.equal([
      'docker-credential-one get a.example',
      'docker-credential-two get https://index.docker.io/v1/',
      'docker-credential-two get nothing.example',
      'docker-credential-three get nothing.example',
    ]);
  });

  it('goes on without a helper that is not there, that answers nonsense, or that is none', async () => {
    const file = await write('auth.json', {
      credHelpers: {
        'evil.example': '../../bin/sh',
        'absent.example': 'absent',
        'odd.example': 'odd',
        'none.example': '',
      },
      credsStore: 'store',
      auths: { 'none.example': { auth: b64('file:x') } },
    });
    const ran: string[] = [];
    const node = new NodeCredentials({
      authFiles: [file],
      runHelper: async (_op, program) => {
        ran.push(program);
        if (program.endsWith('absent')) throw new RuntimeError('NotFound', `${program} is not in PATH`);
        return { exitCode: 0, stdout: program.endsWith('odd') ? 'SECRET' : '{"username":"u","SECRET":"s"}' };
      },
    });
    const unread = async (host: string): Promise<unknown> => {
      const found = await node.find(testOp(), `${host}/x`, undefined, []);
      return found.kind === 'none' ? found.unread : found;
    };
    expect(await unread('evil.example')).to.deep.equal(['"../../bin/sh" is not the name of a credential helper']);
    expect(await unread('absent.example')).to.deep.equal(['docker-credential-absent is not in PATH']);
    expect(await unread('odd.example')).to.deep.equal(['the answer of docker-credential-odd is not valid JSON']);
    expect(await unread('none.example')).to.deep.equal(password('file', 'x'));
    expect(await unread('other.example')).to.deep.equal(password('u', 's'));
    expect(ran).to.deep.equal(['absent', 'odd', 'store'].map((name) => `docker-credential-${name}`));
  });

  it('moves a namespace’s one-time file aside for the pull and deletes it afterwards', async () => {
    const name = `prod-${createHash('sha256').update('reg.example/app').digest('hex')}.json`;
    await write(name, { auths: { 'reg.example': { auth: b64('u:p') } } });
    const node = new NodeCredentials({ authFiles: [], namespacedAuthDir: directory });
    expect(await node.claim('other', ['reg.example/app'])).to.equal(undefined);
    expect(await node.claim('../../prod', ['reg.example/app'])).to.equal(undefined);
    const oneTime = await node.claim('prod', ['reg.example/app:v1', 'reg.example/app']);
    expect(await readdir(directory)).to.deep.equal(['in-use']);
    expect(await node.find(testOp(), 'reg.example/app', oneTime?.path, [])).to.deep.equal(password('u', 'p'));
    await oneTime?.release();
    expect(await readdir(join(directory, 'in-use'))).to.deep.equal([]);
  });

  it('knows where root’s files are', async () => {
    await mkdir(join(directory, 'x'));
    expect(defaultAuthFiles({ HOME: '/h' })).to.deep.equal([
      '/run/containers/0/auth.json',
      '/h/.config/containers/auth.json',
      '/h/.docker/config.json',
      '/h/.dockercfg',
    ]);
    expect(defaultAuthFiles({ REGISTRY_AUTH_FILE: '/f' })).to.deep.equal(['/f']);
    expect(defaultAuthFiles({ HOME: '', REGISTRY_AUTH_FILE: '' })[2]).to.equal('/root/.docker/config.json');
  });
});
