import { assert } from 'chai';
import { knownVulnerable } from './advisories.ts';

describe('knownVulnerable', () => {
  const procfs = ['CVE-2025-31133', 'CVE-2025-52565', 'CVE-2025-52881'];
  const rows: readonly (readonly [release: string, ids: readonly string[]])[] = [
    ['runc 1.1.5+ds1', [...procfs, 'CVE-2024-21626']],
    ['runc 1.1.12', procfs],
    ['runc 1.1.99', procfs],
    ['runc 1.2.7', procfs],
    ['runc 1.2.8', []],
    ['runc 1.2.0-rc.1', procfs],
    ['runc 1.3.0', procfs],
    ['runc 1.3.2', procfs],
    ['runc 1.3.3', []],
    ['runc 1.3.3+dev', []],
    ['runc 1.4.0-rc.2', procfs],
    ['runc 1.4.0-rc.3', []],
    ['runc 1.4.0', []],
    ['runc 2.0.0', []],
    [
      'runc 1.0.0-rc93',
      [...procfs, 'CVE-2024-21626', 'CVE-2023-27561', 'CVE-2023-28642', 'CVE-2022-29162', 'CVE-2021-30465'],
    ],
    ['runc 1.0.0', [...procfs, 'CVE-2024-21626', 'CVE-2023-27561', 'CVE-2023-28642', 'CVE-2022-29162']],
    ['crun 1.8.1', []],
    ['crun 1.4.3', ['CVE-2022-27650']],
    ['youki 0.5.6', ['CVE-2025-62161', 'CVE-2025-62596']],
    ['runsc 0.0~20221219.0', []],
    ['runc unknown', []],
    ['constructor 1.0.0', []],
  ];
  for (const [release, ids] of rows) {
    const has = ids.length === 0 ? 'nothing against it' : ids.length;
    it(`CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: ${release} has ${has}`, () => {
      const [kind = '', version = ''] = release.split(' ');
      const said = knownVulnerable(kind, version) ?? '';
      assert.deepEqual(said.match(/CVE-\d+-\d+/g) ?? [], [...ids]);
    });
  }

  it('says what to do, with releases only', () => {
    assert.match(
      knownVulnerable('runc', '1.1.5+ds1') ?? '',
      /^runc 1\.1\.5\+ds1 is older .*; use runc 1\.2\.8 or 1\.3\.3 or later, unless your distribution/,
    );
  });
});
