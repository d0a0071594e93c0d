import { assert } from 'chai';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silent } from '../../pkg/base/op.ts';
import { sayNriPlugins } from './facts.ts';

describe('NRI plugins on a node', () => {
  it('are named in a warning, and none is no warning', () => {
    const directory = mkdtempSync(join(tmpdir(), 'berth-nri-'));
    const said: string[] = [];
    const log = { ...silent, warn: (_text: string, fields?: object) => void said.push(JSON.stringify(fields)) };
    sayNriPlugins(log, join(directory, 'none'));
    mkdirSync(join(directory, 'plugins'));
    writeFileSync(join(directory, 'plugins/README'), '');
    sayNriPlugins(log, join(directory, 'plugins'));
    assert.deepEqual(said, []);
    for (const name of ['20-topology', '10-device']) writeFileSync(join(directory, 'plugins', name), '');
    sayNriPlugins(log, join(directory, 'plugins'));
    assert.lengthOf(said, 1);
    assert.include(said[0], '"plugins":"10-device, 20-topology"');
    rmSync(directory, { recursive: true });
  });
});
