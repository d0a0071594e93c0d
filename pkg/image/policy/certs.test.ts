import { expect } from 'chai';
import { readFile } from 'node:fs/promises';
import { testOp } from '../fakes.ts';
import { OTHER_KEY, PolicyGround, TEST_CERTIFICATE, TEST_KEY } from './fakes.ts';

describe('image/policy/certs', () => {
  let ground: PolicyGround;
  beforeEach(async () => (ground = await PolicyGround.make()));
  afterEach(() => ground.remove());

  it('are authorities and pairs, for registries and for other servers', async () => {
    await ground.put('certs.d/reg.example:5000/ca.crt', TEST_CERTIFICATE);
    await ground.put('certs.d/reg.example:5000/client.cert', TEST_CERTIFICATE);
    await ground.put('certs.d/reg.example:5000/client.key', TEST_KEY);
    const policy = ground.policy({ environment: { HTTPS_PROXY: 'http://p:1' } });
    const [endpoint] = await ground.endpoints(policy, 'reg.example:5000/x');
    expect(endpoint?.routeOf(new URL('https://reg.example:5000/'))).to.deep.include({
      ca: [TEST_CERTIFICATE],
      clientCertificates: [{ cert: TEST_CERTIFICATE, key: TEST_KEY }],
      verification: 'verify',
    });
    const url = new URL('https://reg.example:5000/lookaside/x');
    expect((await policy.routesTo(testOp(), url))(url)).to.deep.include({
      ca: [TEST_CERTIFICATE],
      verification: 'verify',
      proxy: 'http://p:1',
    });
  });

  it('that are of no use are left out, each with a warning that names it', async () => {
    const own = 'certs.d/reg.example/';
    const bad = [
      await ground.put(`${own}1-text.crt`, 'no certificate'),
      await ground.put(`${own}2-empty.crt`, ''),
      await ground.put(`${own}3-lonely.cert`, TEST_CERTIFICATE),
      await ground.put(`${own}4-other.cert`, TEST_CERTIFICATE),
    ];
    await ground.put(`${own}4-other.key`, OTHER_KEY);
    await ground.put(`${own}5-good.crt`, TEST_CERTIFICATE);
    const [endpoint] = await ground.endpoints(ground.policy(), 'reg.example/x');
    const { ca, clientCertificates } = endpoint?.routeOf(new URL('https://reg.example/')) ?? {};
    expect([ca, clientCertificates]).to.deep.equal([[TEST_CERTIFICATE], []]);
    expect(ground.log.full).to.have.length(bad.length);
    for (const [index, path] of bad.entries())
      expect(ground.log.full[index])
        .to.match(/^warn .*left out/)
        .and.contain(path);
    expect(ground.log.full.join()).to.not.contain(await readFile(`${ground.directory}/${own}4-other.key`, 'utf8'));
  });

  it('come from the first directory that has any; one with a hosts.toml alone has none', async () => {
    await ground.put('certs.d/reg.example/hosts.toml', '');
    await ground.put('second/reg.example/ca.crt', TEST_CERTIFICATE);
    const policy = ground.policy({ certsDirs: [`${ground.directory}/certs.d`, `${ground.directory}/second`] });
    const [endpoint] = await ground.endpoints(policy, 'reg.example/x');
    expect(endpoint?.routeOf(new URL('https://reg.example/')).ca).to.deep.equal([TEST_CERTIFICATE]);
  });
});
