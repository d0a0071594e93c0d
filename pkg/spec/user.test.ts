import { assert } from 'chai';
import { outcome } from './golden/refused.ts';
import { limits } from '../base/limits.ts';
import { inputOf } from './golden/request.ts';
import { identityOf, resolveUser, type UserRequest } from './user.ts';

const PASSWD = [
  '# comment',
  'root:x:0:0:root:/root:/bin/sh',
  'app:x:1000:1001::/home/app:/bin/sh',
  'broken',
  'nouid:x::1:::',
  '1000x:x:77:77::/x:',
  '4000:x:55:56::/num:/bin/sh',
  'huge:x:4294967296:0::/huge:',
  'negative:x:-1:0::/:',
  'biggid:x:30:99999999999::/:',
  'relative:x:31:31::relative/home:',
  '',
].join('\n');
const GROUP =
  'root:x:0:\napp:x:1001:\nstaff:x:50:app,root\nwheel:x:10: app ' +
  '\nhuge:x:4294967296:app\nbroken:x\nothers:x:60:application\n';

/** As they are read: bytes. */
interface Texts {
  readonly passwd?: string | undefined;
  readonly group?: string | undefined;
}
const bytes = (text: string | undefined): Buffer | undefined => (text === undefined ? undefined : Buffer.from(text));

function request(security: object, imageUser = '', texts: Texts = {}): UserRequest {
  const base = { runAsUsername: '', supplementalGroups: [], supplementalGroupsPolicy: 'Merge' };
  const numbers = Object.fromEntries(
    Object.entries(security).map(([key, value]) => [
      key,
      typeof value === 'number' ? { value: BigInt(value) } : Array.isArray(value) ? value.map(BigInt) : value,
    ]),
  );
  return {
    security: { ...base, ...numbers } as unknown as UserRequest['security'],
    imageUser,
    passwd: bytes('passwd' in texts ? texts.passwd : PASSWD),
    group: bytes('group' in texts ? texts.group : GROUP),
  };
}
function identity(security: object, imageUser = '', texts: Texts = {}): string {
  const { user, inPasswd } = resolveUser(request(security, imageUser, texts));
  return (
    `${user.uid}:${user.gid} [${[...user.additionalGids].sort((a, b) => a - b).join(' ')}] ` +
    `${user.home}${inPasswd === 'listed' ? '' : ' unknown'}`
  );
}

describe('resolveUser', () => {
  const cases: readonly (readonly [security: object, imageUser: string, identity: string])[] = [
    [{}, '', '0:0 [0 50] /root'],
    [{}, 'root', '0:0 [0 50] /root'],
    [{}, 'app', '1000:1001 [10 50 1001] /home/app'],
    [{}, '1000', '1000:1001 [10 50 1001] /home/app'],
    [{}, 'app:staff', '1000:50 [10 50] /home/app'],
    [{}, 'app:', '1000:1001 [10 50 1001] /home/app'],
    [{}, 'app:777', '1000:777 [10 50 777] /home/app'],
    [{}, '5555:6666', '5555:6666 [6666] / unknown'],
    [{}, '5555', '5555:0 [0] / unknown'],
    [{}, ':50', '0:50 [50] /root'],
    // A user called "4000" is that user, not uid 4000.
    [{}, '4000', '55:56 [56] /num'],
    [{ runAsUser: 4000 }, 'app', '4000:0 [0] / unknown'],
    [{ runAsUser: 1000 }, 'root:staff', '1000:1001 [10 50 1001] /home/app'],
    [{ runAsUser: 1000, runAsGroup: 9 }, '', '1000:9 [9 10 50] /home/app'],
    [{ runAsUsername: 'app' }, '', '1000:1001 [10 50 1001] /home/app'],
    [{ runAsUsername: 'app', runAsGroup: 0 }, '', '1000:0 [0 10 50] /home/app'],
    [{ runAsUser: 2147483647 }, '', '2147483647:0 [0] / unknown'],
    [{ runAsUser: 31 }, '', '31:31 [31] /'],
    [{ runAsUser: 1000, supplementalGroups: [3, 10, 3] }, '', '1000:1001 [3 10 50 1001] /home/app'],
    [
      { runAsUser: 1000, supplementalGroups: [3], supplementalGroupsPolicy: 'Strict' },
      '',
      '1000:1001 [3 1001] /home/app',
    ],
  ];
  for (const [security, imageUser, expected] of cases) {
    it(`${JSON.stringify(security)} with USER ${JSON.stringify(imageUser)} is ${expected}`, () =>
      assert.equal(identity(security, imageUser), expected));
  }

  it('needs no passwd and group in the image', () => {
    assert.equal(identity({}, '', { passwd: undefined, group: undefined }), '0:0 [0] / unknown');
    assert.equal(identity({}, 'root:root', { passwd: undefined, group: undefined }), '0:0 [0] / unknown');
    assert.equal(identity({ runAsUser: 7, runAsGroup: 8 }, '', { passwd: '', group: '' }), '7:8 [8] / unknown');
  });

  it('has the primary group among the supplementary ones (CVE-2022-2995, CVE-2023-25173)', () => {
    for (const policy of ['Merge', 'Strict']) {
      assert.include(
        resolveUser(request({ runAsUser: 1, runAsGroup: 1000, supplementalGroupsPolicy: policy })).user.additionalGids,
        1000,
      );
      assert.include(resolveUser(request({ supplementalGroupsPolicy: policy }, '1000:1000')).user.additionalGids, 1000);
    }
  });

  const refused: readonly (readonly [id: string, security: object, imageUser: string, message: RegExp])[] = [
    ['CVE-2024-40635', {}, '4294967296', /image user 4294967296 is out of range/],
    ['CVE-2024-40635', {}, '2147483648:2147483648', /image user 2147483648 is out of range/],
    ['CVE-2024-40635', {}, '-1', /image user -1 is out of range/],
    ['CVE-2024-40635', {}, '1:4294967296', /image group 4294967296 is out of range/],
    ['CVE-2024-40635', {}, '99999999999999999999999', /neither a number nor in the image/],
    ['CVE-2024-40635', {}, 'huge', /uid of image user "huge" 4294967296 is out of range/],
    ['CVE-2024-40635', { runAsUsername: 'negative' }, '', /uid of "negative" -1 is out of range/],
    ['CVE-2024-40635', { runAsUser: 30 }, '', /primary group 99999999999 is out of range/],
    ['CVE-2024-40635', { runAsUser: 2147483648 }, '', /run_as_user 2147483648 is out of range/],
    ['CVE-2024-40635', { runAsUser: -1 }, '', /run_as_user -1 is out of range/],
    ['CVE-2024-40635', { runAsUser: 1, runAsGroup: 4294967296 }, '', /run_as_group 4294967296 is out of range/],
    ['CVE-2024-40635', { supplementalGroups: [4294967296] }, '', /supplemental_groups 4294967296 is out of range/],
    ['field 11', { runAsGroup: 1 }, '', /run_as_group is set without run_as_user/],
    ['field 11', { runAsGroup: 1 }, 'app', /run_as_group is set without run_as_user/],
    ['field 6', { runAsUsername: 'nobody' }, '', /"nobody" is not in the image's \/etc\/passwd/],
    ['field 6', { runAsUsername: 'app', runAsUser: 1 }, '', /both set/],
    ['field 9', { supplementalGroupsPolicy: 'Other' }, '', /supplemental_groups_policy "Other" is unknown/],
    ['image USER', {}, 'nobody', /"nobody" is neither a number nor in the image/],
    ['image USER', {}, 'app:nogroup', /"nogroup" is neither a number nor in the image/],
    ['image USER', {}, 'root\0', /neither a number nor in the image/],
  ];
  for (const [id, security, imageUser, message] of refused) {
    it(`refuses ${JSON.stringify(security)} with USER ${JSON.stringify(imageUser)} (${id})`, () => {
      const said = outcome(() => resolveUser(request(security, imageUser)));
      assert.match(said, /^InvalidArgument: /);
      assert.match(said, message);
    });
  }

  it('leaves out what in a group file is no id, and refuses more groups than Linux takes', () => {
    const odd = 'a:x:-1:app\nb:x:2147483648:app\nc:x:12:,app ,x\nd:x:13:ap\ne:x:99999999999999999999999:app\n';
    assert.equal(identity({}, 'app', { group: odd }), '1000:1001 [12 1001] /home/app');
    const groups = (count: number): string => Array.from({ length: count }, (_, gid) => `g:x:${gid}:app\n`).join('');
    assert.match(identity({}, 'app', { group: groups(65_536) }), / 65535] /);
    assert.match(
      outcome(() => identity({}, 'app', { group: groups(65_537) })),
      /^InvalidArgument: the image's \/etc\/group has user "app" in more than 65536 groups/,
    );
  });

  it('reads a passwd without line ends, and the last line of a large one (CVE-2025-4437)', () => {
    const line = 'someone:x:9:9::/:\n';
    assert.equal(
      identity({ runAsUsername: 'last' }, '', { passwd: `${line.repeat(20_000)}last:x:3:4::/last:` }),
      '3:4 [4] /last',
    );
    assert.equal(identity({ runAsUser: 9 }, '', { passwd: 'x'.repeat(400_000) }), '9:0 [0] / unknown');
  });

  // On the event loop: whatever an image fills its files with, a look at them costs milliseconds of processor time.
  const hostile: Readonly<Record<string, string>> = {
    'empty lines': '\n',
    'tiny lines': 'a\n',
    'the name, and nothing behind it': 'app:\n',
    'the name, with numbers that are none': 'app:x:x:\n',
    'another user of that number': 'b:x:1000:1\n',
    colons: ':',
    'colons and lines': ':\n',
    members: 'g:x:1:app\n',
    'other members': 'g:x:1:a,a,a,a,a,ap\n',
    commas: ',',
    blanks: ' ',
    comments: '#\n',
  };
  for (const [what, unit] of Object.entries(hostile)) {
    it(`takes its time within bounds over ${what}`, () => {
      const text = unit.repeat(limits.passwdBytes / unit.length);
      const group = unit === ',' ? `g:x:1:${text}` : text;
      const before = process.cpuUsage();
      try {
        identity({}, 'app:nogroup', { passwd: `${text}\napp:x:1:1::/:\n`, group });
      } catch {
        // Refused or not: what counts is what it costs.
      }
      const { user, system } = process.cpuUsage(before);
      // Less than a hundred, some hundred while coverage is measured beside other work; a pass for each of the lines of
      // the file, or of its fields, would take minutes.
      assert.isBelow((user + system) / 1000, 5_000, 'ms of processor time');
    });
  }
});

describe('identityOf', () => {
  const found = (security: object, over: { readonly image?: object } & Texts = {}): readonly [string, string] => {
    const input = inputOf({
      container: { linux: { securityContext: security as never } },
      ...(over.image === undefined ? {} : { image: over.image as never }),
    });
    const { passwd, group } = identityOf({
      ...input,
      passwd: bytes('passwd' in over ? over.passwd : PASSWD),
      group: bytes('group' in over ? over.group : GROUP),
    });
    return [
      passwd === undefined ? '' : `…${Buffer.from(passwd).toString().split('\n').slice(-2).join('\\n')}`,
      group === undefined ? '' : `…${Buffer.from(group).toString().split('\n').slice(-2).join('\\n')}`,
    ];
  };
  const ids = (user: number, group: number): object => ({
    runAsUser: { value: BigInt(user) },
    runAsGroup: { value: BigInt(group) },
  });

  it('adds a line for a uid and for a gid that the image does not list, as CRI-O does', () => {
    assert.deepEqual(found(ids(4242, 777)), ['…4242:x:4242:777:4242 user:/:/sbin/nologin\\n', '…777:x:777:\\n']);
    assert.deepEqual(found(ids(4242, 50)), ['…4242:x:4242:50:4242 user:/:/sbin/nologin\\n', '']);
    assert.deepEqual(found(ids(1000, 777)), ['', '…777:x:777:\\n']);
    assert.deepEqual(found(ids(1000, 1001)), ['', '']);
    assert.deepEqual(found({}, { image: { user: 'app:staff' } }), ['', '']);
    assert.deepEqual(found({}, { image: { user: 'app:778' } }), ['', '…778:x:778:\\n']);
  });

  it('keeps what the image has, whether its last line ends or not', () => {
    const whole = (passwd: string): string =>
      String(
        identityOf({
          ...inputOf({ container: { linux: { securityContext: ids(7, 0) as never } } }),
          passwd: Buffer.from(passwd),
          group: undefined,
        }).passwd,
      );
    assert.equal(whole('root:x:0:0::/:'), 'root:x:0:0::/:\n7:x:7:0:7 user:/:/sbin/nologin\n');
    assert.equal(whole('root:x:0:0::/:\n'), 'root:x:0:0::/:\n7:x:7:0:7 user:/:/sbin/nologin\n');
    assert.equal(whole(''), '7:x:7:0:7 user:/:/sbin/nologin\n');
    const binary = Buffer.from([0xff, 0x3a, 0x0a]);
    const { passwd } = identityOf({
      ...inputOf({ container: { linux: { securityContext: ids(7, 0) as never } } }),
      passwd: binary,
      group: undefined,
    });
    assert.deepEqual(Buffer.from(passwd ?? []).subarray(0, 3), binary, 'bytes are not made into text on the way');
  });

  it('makes no file for an image that has none', () =>
    assert.deepEqual(found(ids(4242, 777), { passwd: undefined, group: undefined }), ['', '']));

  it('has the HOME that the process will see', () =>
    assert.match(found(ids(4242, 50), { image: { env: ['HOME=/work'] } })[0], /:\/work:/));

  it('refuses a home that would forge a line or a field (CVE-2022-4318)', () => {
    const said = (home: string): string => outcome(() => found(ids(4242, 50), { image: { env: [`HOME=${home}`] } }));
    assert.match(said('/root\nroot2:x:0:0::/:/bin/sh'), /^InvalidArgument: HOME .* control character/);
    assert.match(said('/root:/bin/sh'), /^InvalidArgument: HOME .* colon/);
  });

  it('refuses ids that the user namespace does not map', () => {
    const maps = [{ hostId: 65_536, containerId: 0, size: 1000 }];
    const input = { ...inputOf(), idMap: { uids: maps, gids: maps }, passwd: undefined, group: undefined };
    assert.match(
      outcome(() => identityOf({ ...input, image: { ...input.image, user: '1000' } })),
      /^InvalidArgument: uid 1000 is not mapped/,
    );
  });
});
