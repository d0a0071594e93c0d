import { assert } from 'chai';
import { outcome } from './golden/refused.ts';
import { passwdWithEntry, resolveUser } from './user.ts';
import type { UserRequest } from '../ports/spec.ts';

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

function request(security: object, imageUser = '', texts: Partial<UserRequest> = {}): UserRequest {
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
    passwd: PASSWD,
    group: GROUP,
    ...texts,
  };
}
function identity(security: object, imageUser = '', texts: Partial<UserRequest> = {}): string {
  const user = resolveUser(request(security, imageUser, texts));
  return (
    `${user.uid}:${user.gid} [${[...user.additionalGids].sort((a, b) => a - b).join(' ')}] ` +
    `${user.home}${user.known ? '' : ' unknown'}`
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
        resolveUser(request({ runAsUser: 1, runAsGroup: 1000, supplementalGroupsPolicy: policy })).additionalGids,
        1000,
      );
      assert.include(resolveUser(request({ supplementalGroupsPolicy: policy }, '1000:1000')).additionalGids, 1000);
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

  it('reads a passwd of megabytes and one without line ends (CVE-2025-4437)', () => {
    const line = 'someone:x:9:9::/:\n';
    assert.equal(
      identity({ runAsUsername: 'last' }, '', { passwd: `${line.repeat(200_000)}last:x:3:4::/last:` }),
      '3:4 [4] /last',
    );
    assert.equal(identity({ runAsUser: 9 }, '', { passwd: 'x'.repeat(4_000_000) }), '9:0 [0] / unknown');
  });
});

describe('passwdWithEntry', () => {
  const user = { uid: 4242, gid: 7, additionalGids: [7], home: '/', known: false };
  it('adds a line for a uid that the image does not know', () => {
    assert.equal(
      passwdWithEntry('root:x:0:0::/root:/bin/sh', user, '/work'),
      'root:x:0:0::/root:/bin/sh\n4242:x:4242:7:4242 user:/work:/sbin/nologin\n',
    );
    assert.equal(
      passwdWithEntry('root:x:0:0::/root:/bin/sh\n', user, ''),
      'root:x:0:0::/root:/bin/sh\n4242:x:4242:7:4242 user:/:/sbin/nologin\n',
    );
    assert.equal(passwdWithEntry('', user, '/'), '4242:x:4242:7:4242 user:/:/sbin/nologin\n');
  });
  it('adds none for a known uid or an image without passwd', () => {
    assert.isUndefined(passwdWithEntry('x', { ...user, known: true }, '/'));
    assert.isUndefined(passwdWithEntry(undefined, user, '/'));
  });
  it('refuses a home that would forge a line or a field (CVE-2022-4318)', () => {
    assert.match(
      outcome(() => passwdWithEntry('', user, '/root\nroot2:x:0:0::/:/bin/sh')),
      /^InvalidArgument: HOME .* control character/,
    );
    assert.match(
      outcome(() => passwdWithEntry('', user, '/root:/bin/sh')),
      /^InvalidArgument: HOME .* colon/,
    );
  });
});
